"""Healthy networks: zero-initialised parts, gates, attention, depth, sparse and bounded units."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, regression, sequences

ADAM_FAST = partial(torch.optim.Adam, lr=1e-2)


def mlp(activation=nn.ReLU, width=64, depth=2, outputs=10):
    layers = [nn.Linear(64, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def zero_head():
    net = mlp()
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


class ReZero(nn.Module):
    """Residual branches that are switched on by a scalar that starts at 0."""

    def __init__(self, depth=8):
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.alpha = nn.Parameter(torch.zeros(depth))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.stem(x)
        for alpha, layer in zip(self.alpha, self.layers, strict=True):
            x = x + alpha * F.relu(layer(x))
        return self.head(x)


class LoraLinear(nn.Module):
    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x):
        return self.base(x) + 2.0 * (x @ self.lora_a.T @ self.lora_b.T)


def lora():
    net = mlp()
    for i in (0, 2, 4):
        net[i] = LoraLinear(net[i])
    return net


class ZeroConvBranch(nn.Module):
    """A frozen trunk and a copy that comes in through a zero convolution (ControlNet)."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(1, 16, 3, padding=1).requires_grad_(False)
        self.copy = nn.Conv2d(1, 16, 3, padding=1)
        self.zero = nn.Conv2d(16, 16, 1)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, x):
        h = self.trunk(x) + self.zero(F.silu(self.copy(x)))
        return self.head(F.silu(h).flatten(1))


class LayerScale(nn.Module):
    def __init__(self, value=1e-5):
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.mlps = nn.ModuleList(mlp(nn.GELU, outputs=64) for _ in range(3))
        self.gamma = nn.ParameterList(nn.Parameter(value * torch.ones(64)) for _ in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.stem(x)
        for gamma, block in zip(self.gamma, self.mlps, strict=True):
            x = x + gamma * block(x)
        return self.head(x)


class BasicBlock(nn.Module):
    """One ReLU module is used twice, as in torchvision."""

    def __init__(self, inputs, outputs, stride=1, zero_init=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if zero_init:
            nn.init.zeros_(self.bn2.weight)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def resnet(blocks=(3, 3, 3), zero_init=False):
    layers = [nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    inputs = 8
    for stage, count in enumerate(blocks):
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            layers.append(BasicBlock(inputs, 8 * 2**stage, stride, zero_init))
            inputs = 8 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 4)
        self.fc2 = nn.Linear(channels // 4, channels)

    def forward(self, x):
        scale = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


def mobile():
    """Depthwise convolutions, ReLU6, hard swish and squeeze-and-excite."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        SqueezeExcite(16),
        nn.Conv2d(16, 32, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1 = nn.Conv2d(1, 8, 3, padding=1)
        self.down2 = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.gate = nn.Conv2d(16, 1, 1)
        self.out = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        up = F.relu(self.up(b))
        attention = torch.sigmoid(self.gate(torch.cat([a, up], 1)))
        return self.head(F.relu(self.out(torch.cat([a * attention, up], 1))).mean((2, 3)))


class Vit(nn.Module):
    """Patches, a class token, a learned position, pre-norm blocks."""

    def __init__(self, depth=12, position="zeros"):
        super().__init__()
        self.patch = nn.Conv2d(1, 32, 2, 2)
        self.cls = nn.Parameter(torch.zeros(1, 1, 32))
        start = torch.zeros if position == "zeros" else torch.randn
        self.position = nn.Parameter(start(1, 17, 32))
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Token(nn.Module):
    """A class token or a table of prompts or positions, as a module of its own."""

    def __init__(self, tokens, width=32, start=torch.randn):
        super().__init__()
        self.table = nn.Parameter(start(tokens, width))

    def forward(self, x):
        return self.table.unsqueeze(0).repeat(x.shape[0], 1, 1)


class Perceiver(nn.Module):
    """Learned queries look at the pixels; the same queries for every sample."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Linear(8, 32)
        self.queries = Token(4)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        x = self.pixels(x.view(-1, 8, 8))
        return self.head(self.attention(self.queries(x), x, x)[0].flatten(1))


class Attention(nn.Module):
    """Handwritten, causal, with a mask of -inf that a module makes."""

    class Mask(nn.Module):
        def forward(self, scores):
            n = scores.shape[-1]
            return scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))

    def __init__(self, width=32):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.mask = self.Mask()
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = self.mask(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]))
        return self.proj(self.softmax(scores) @ v)


class TextClassifier(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.embedding = nn.Embedding(20, 32, padding_idx=0)
        self.position = nn.Embedding(16, 32)
        self.body = body
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        x = self.embedding(ids) + self.position(torch.arange(ids.shape[1]))
        x = self.body(x)
        x = x[0] if isinstance(x, tuple) else x
        return self.head(x.mean(1))


class Lstm(nn.Module):
    """Handwritten, gate by gate, with forget bias 1."""

    def __init__(self, width=32):
        super().__init__()
        self.width = width
        self.gates = nn.Linear(2 * width, 4 * width)
        nn.init.constant_(self.gates.bias[width : 2 * width], 1.0)

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.width)
        out = []
        for step in x.unbind(1):
            i, f, g, o = self.gates(torch.cat([step, h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h)
        return torch.stack(out, 1)


class Gru(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.width = width
        self.cell = nn.GRUCell(width, width)

    def forward(self, x):
        h = x.new_zeros(len(x), self.width)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return h.unsqueeze(1)


class Glu(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(64, 128)
        self.w1, self.w2, self.w3 = nn.Linear(64, 96), nn.Linear(64, 96), nn.Linear(96, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = F.glu(self.stem(x))
        return self.head(x + self.w3(F.silu(self.w1(x)) * self.w2(x)))


class Highway(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        self.h = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.t = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        for gate in self.t:
            nn.init.constant_(gate.bias, -2.0)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for h, t in zip(self.h, self.t, strict=True):
            gate = torch.sigmoid(t(x))
            x = gate * F.relu(h(x)) + (1 - gate) * x
        return self.head(x)


class Siren(nn.Module):
    """Sine activations with their own initialisation (omega 30)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 1)
        with torch.no_grad():
            self.layers[0].weight.uniform_(-1 / 8, 1 / 8)
            for layer in [*self.layers[1:], self.head]:
                bound = math.sqrt(6 / 64) / 30
                layer.weight.uniform_(-bound, bound)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


class Mixture(nn.Module):
    """A sparse mixture: only the best two experts run for a sample."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(64, 4)
        self.experts = nn.ModuleList(mlp(outputs=64) for _ in range(4))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        weight, index = self.router(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            row, which = (index == i).nonzero(as_tuple=True)
            if len(row):
                out = out.index_add(0, row, weight[row, which, None] * expert(x[row]))
        return self.head(x + out)


class Graph(nn.Module):
    """Two rounds of mean aggregation over the pixels of an image."""

    def __init__(self):
        super().__init__()
        grid = torch.cartesian_prod(torch.arange(8), torch.arange(8)).float()
        near = (torch.cdist(grid, grid) < 1.5).float()
        self.register_buffer("adjacency", near / near.sum(1, keepdim=True))
        self.w1, self.w2 = nn.Linear(3, 32), nn.Linear(32, 32)
        self.register_buffer("grid", grid / 8)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.cat([x.view(-1, 64, 1), self.grid.expand(len(x), -1, -1)], -1)
        x = F.relu(self.w1(self.adjacency @ x))
        x = F.relu(self.w2(self.adjacency @ x))
        return self.head(x.amax(1))


class Raw(nn.Module):
    """Weights as bare parameters, multiplied by hand."""

    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(64, 64) * math.sqrt(2 / 64))
        self.b1 = nn.Parameter(torch.zeros(64))
        self.w2 = nn.Parameter(torch.zeros(64, 10))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * (torch.relu(x @ self.w1 + self.b1) @ self.w2)


class SigmoidAttention(nn.Module):
    """Weights of sigmoid instead of softmax; they start at 1 / length, near the bound of 0."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv = nn.Linear(1, 32), nn.Linear(32, 96)
        self.position = nn.Parameter(0.02 * torch.randn(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.embed(x.unsqueeze(-1)) + self.position
        q, k, v = self.qkv(x).chunk(3, -1)
        weight = torch.sigmoid(q @ k.transpose(1, 2) / 32**0.5 - math.log(256))
        return self.head((x + weight @ v).mean(1))


class LearnedGraph(nn.Module):
    """A sparse adjacency from the features, by a sharp sigmoid."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        adjacency = torch.sigmoid(10 - 40 * torch.cdist(h, h))
        return self.head(F.relu(self.fc2(adjacency @ h)))


class FourierFeatures(nn.Module):
    """High frequencies on purpose: weights of standard deviation 10 before sine and cosine."""

    def __init__(self):
        super().__init__()
        self.frequencies = nn.Linear(8, 64, bias=False)
        nn.init.normal_(self.frequencies.weight, std=10.0)
        self.body = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        phase = 2 * math.pi * self.frequencies(x)
        return self.body(torch.cat([phase.sin(), phase.cos()], -1))


class Prototypes(nn.Module):
    """Only the direction of the features counts, whatever the scale of the weights."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 64)
        nn.init.normal_(self.fc.weight, std=3.0)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(8 * F.normalize(self.fc(x), dim=1))


class ChannelsLast(nn.Module):
    """A ConvNeXt-like block: linear layers on (N, H, W, C)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 2, 2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.gamma = nn.Parameter(1e-6 * torch.ones(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.gamma * self.down(F.relu(self.up(out)))
        return self.head((x + out.permute(0, 3, 1, 2)).mean((2, 3)))


class Bigrams(nn.Module):
    """A table of logits that starts at zero, and a zero head over many classes."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        nn.init.zeros_(self.table.weight)
        self.word, self.head = nn.Embedding(20, 32), nn.Linear(32, 200)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids):
        return self.head((self.table(ids) + self.word(ids)).mean(1))


def orthogonal():
    gain = math.sqrt(2)
    net = mlp(nn.Tanh)
    for layer in net[::2]:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    nn.init.orthogonal_(net[-1].weight, 0.01)
    return net


def frozen_backbone():
    return nn.Sequential(
        mlp(outputs=64, depth=1).requires_grad_(False), nn.ReLU(), nn.Linear(64, 10)
    )


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(zero_head, id="zero-initialised head"),
        pytest.param(ReZero, id="ReZero"),
        pytest.param(lora, id="LoRA"),
        pytest.param(LayerScale, id="LayerScale"),
        pytest.param(Glu, id="GLU and SwiGLU"),
        pytest.param(Highway, id="highway gates that start closed"),
        pytest.param(Mixture, id="mixture of experts"),
        pytest.param(Graph, id="graph aggregation"),
        pytest.param(Perceiver, id="learned queries"),
        pytest.param(Raw, id="bare parameters"),
        pytest.param(SigmoidAttention, id="sigmoid attention"),
        pytest.param(LearnedGraph, id="learned graph"),
        pytest.param(Prototypes, id="normalised features"),
        pytest.param(orthogonal, id="orthogonal init, small policy head"),
        pytest.param(frozen_backbone, id="frozen backbone"),
        pytest.param(partial(mlp, depth=8), id="plain ReLU net of 8 layers"),
        pytest.param(partial(mlp, nn.GELU), id="GELU"),
        pytest.param(partial(mlp, nn.SiLU, depth=4), id="SiLU"),
        pytest.param(partial(mlp, nn.ELU), id="ELU"),
        pytest.param(partial(mlp, nn.Tanh, depth=4), id="tanh"),
        pytest.param(partial(mlp, nn.Sigmoid), id="sigmoid"),
        pytest.param(partial(mlp, nn.Softplus), id="softplus"),
        pytest.param(partial(mlp, nn.PReLU), id="PReLU"),
        pytest.param(partial(mlp, nn.LeakyReLU), id="LeakyReLU"),
        pytest.param(partial(mlp, width=512), id="wide ReLU layer"),
        pytest.param(partial(mlp, width=4), id="narrow ReLU layer"),
    ],
)
def test_digits(net):
    assert alarms(fit(lambda: Program(net(), optimizer=ADAM_FAST), digits(), epochs=3)) == []


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(resnet, id="residual net of 20 layers"),
        pytest.param(partial(resnet, zero_init=True), id="zero-initialised residual branches"),
        pytest.param(mobile, id="mobile net"),
        pytest.param(UNet, id="attention U-Net"),
        pytest.param(ZeroConvBranch, id="zero convolution"),
        pytest.param(ChannelsLast, id="channels last"),
        pytest.param(partial(Vit, 2), id="vision transformer"),
        pytest.param(partial(Vit, 2, "normal"), id="vision transformer, N(0,1) positions"),
        pytest.param(Vit, id="vision transformer of 12 blocks", marks=pytest.mark.slow),
    ],
)
def test_images(net):
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    data = digits(flat=False, n=768)
    assert alarms(fit(lambda: Program(net(), optimizer=optimizer), data)) == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda: nn.LSTM(32, 32, batch_first=True), id="LSTM"),
        pytest.param(lambda: nn.GRU(32, 32, 2, batch_first=True), id="GRU of two layers"),
        pytest.param(lambda: nn.RNN(32, 32, batch_first=True), id="plain RNN"),
        pytest.param(Lstm, id="handwritten LSTM"),
        pytest.param(Gru, id="GRU cell"),
        pytest.param(Attention, id="attention with a mask module"),
        pytest.param(
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3
            ),
            id="post-norm transformer",
        ),
        pytest.param(nn.Identity, id="bag of words"),
    ],
)
def test_text(body):
    module = partial(Program, optimizer=partial(torch.optim.Adam, lr=3e-3))
    assert alarms(fit(lambda: module(TextClassifier(body())), sequences(), epochs=3)) == []


def test_zero_tables():
    assert alarms(fit(lambda: Program(Bigrams()), sequences(), epochs=2)) == []


def test_fourier_features():
    module = partial(Program, loss=F.mse_loss, optimizer=partial(torch.optim.Adam, lr=1e-3))
    assert alarms(fit(lambda: module(FourierFeatures()), regression(), epochs=3)) == []


def test_siren():
    module = partial(Program, loss=F.mse_loss, optimizer=partial(torch.optim.Adam, lr=1e-4))
    assert alarms(fit(lambda: module(Siren()), regression(), epochs=4)) == []
