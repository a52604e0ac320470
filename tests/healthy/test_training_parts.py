"""Healthy training of networks of which some parts rest, start at zero or train elsewhere."""

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression, sequences


def mlp(width=64):
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def trained(net, epochs=8):
    """Return the network after some training, as a checkpoint gives it."""
    data = list(digits())
    optimizer = optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.requires_grad_(True)


def frozen_backbone():
    net = trained(mlp())
    net[:4].requires_grad_(False)
    net[4] = nn.Linear(64, 10)
    return Program(net)


def frozen_backbone_filtered():
    net = trained(mlp())
    net[:4].requires_grad_(False)
    net[4] = nn.Linear(64, 10)
    return Program(net, optimizer=lambda ps: optim.Adam([p for p in ps if p.requires_grad], 1e-3))


def bitfit():
    net = trained(mlp())
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("bias" in name)
    return Program(net)


class Lora(nn.Module):
    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


def lora():
    net = trained(mlp())
    return Program(nn.Sequential(*[Lora(m) if isinstance(m, nn.Linear) else m for m in net]))


class Residual(nn.Module):
    """A residual branch that starts at zero: by its last layer, by a gate, or not at all."""

    def __init__(self, width, start="last"):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.branch = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.gate = nn.Parameter(torch.zeros(1)) if start == "gate" else 1.0
        if start == "last":
            nn.init.zeros_(self.branch[2].weight)
            nn.init.zeros_(self.branch[2].bias)
        if start == "scale":
            self.gate = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x):
        return x + self.gate * self.branch(self.norm(x))


def residuals(start, depth=6):
    blocks = [Residual(32, start) for _ in range(depth)]
    return Program(nn.Sequential(nn.Linear(64, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 10)))


def zero_head():
    net = mlp()
    nn.init.zeros_(net[4].weight)
    nn.init.zeros_(net[4].bias)
    return Program(net)


class ResNetBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


def deep_resnet(zero_init=False):
    blocks = [ResNetBlock(8) for _ in range(12)]
    if zero_init:
        for block in blocks:
            nn.init.zeros_(block.body[4].weight)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    return Program(net, optimizer=partial(optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4))


class Experts(nn.Module):
    """Top-1 routing: each batch, and maybe each run, leaves some experts without a token."""

    def __init__(self, count=8, skewed=False):
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.router = nn.Linear(32, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(count)
        )
        self.head = nn.Linear(32, 10)
        if skewed:
            with torch.no_grad():
                self.router.bias[0] = 3.0

    def forward(self, x):
        h = F.relu(self.stem(x))
        gates, chosen = self.router(h).softmax(1).max(1)
        out = torch.zeros_like(h)
        for index, expert in enumerate(self.experts):
            mine = (chosen == index).nonzero().squeeze(1)
            if len(mine):
                out = out.index_add(0, mine, expert(h[mine]) * gates[mine, None])
        return self.head(h + out)


class LayerDrop(nn.Module):
    def __init__(self, depth=8, p=0.7):
        super().__init__()
        self.stem, self.p = nn.Linear(64, 32), p
        self.layers = nn.ModuleList(Residual(32, start="") for _ in range(depth))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        h = self.stem(x)
        for layer in self.layers:
            if not self.training or torch.rand(()) > self.p:
                h = layer(h)
        return self.head(h)


class StochasticDepth(LayerDrop):
    """The branch runs, and its output is multiplied by zero."""

    def forward(self, x):
        h = self.stem(x)
        for layer in self.layers:
            keep = (torch.rand(len(x), 1) > self.p).float() / (1 - self.p)
            h = h + (layer(h) - h) * keep
        return self.head(h)


class PositionEmbedding(nn.Module):
    """A small transformer; the sequences are shorter than the table of positions."""

    def __init__(self, layers=2, *, norm_first=True, dim=32, tied=False, vocabulary=20, classes=2):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.positions = nn.Embedding(64, dim)
        layer = nn.TransformerEncoderLayer(
            dim, 4, 2 * dim, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary if tied else classes)
        if tied:
            nn.init.normal_(self.tokens.weight, std=0.02)
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(self.norm(self.body(x, src_key_padding_mask=ids == 0)).mean(1))


class LanguageModel(pl.LightningModule):
    """Next token, with the embedding as the head."""

    def __init__(self):
        super().__init__()
        self.net = PositionEmbedding(tied=True)

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        net, length = self.net, ids.shape[1] - 1
        x = net.tokens(ids[:, :-1]) + net.positions.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        h = net.norm(net.body(x, mask=mask, is_causal=True))
        return F.cross_entropy(net.head(h).flatten(0, 1), ids[:, 1:].flatten())

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=1e-3)


class Bag(nn.Module):
    def __init__(self, vocabulary=2000, sparse=False):
        super().__init__()
        self.table = nn.Embedding(vocabulary, 16, padding_idx=0, sparse=sparse)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


class SparseBag(Program):
    """A lookup table with an optimizer of its own."""

    def __init__(self):
        super().__init__(Bag(sparse=True))
        self.automatic_optimization = False

    def configure_optimizers(self):
        return (
            optim.SparseAdam(self.net.table.parameters(), lr=1e-2),
            optim.Adam(self.net.head.parameters(), lr=1e-3),
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        loss = F.cross_entropy(self(x), y)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss


class Recurrent(nn.Module):
    def __init__(self, cell, **kwargs):
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.rnn = cell(16, 32, batch_first=True, **kwargs)
        self.head = nn.Linear(32 * (2 if kwargs.get("bidirectional") else 1), 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0].mean(1))


class Tasks(pl.LightningModule):
    """Heads by task; each batch is of one task, and one task is rare."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(32, 10) for name in "abc"})

    def training_step(self, batch, batch_idx):
        x, y = batch
        task = "c" if batch_idx == 20 else "ab"[batch_idx % 2]
        return F.cross_entropy(self.heads[task](self.body(x)), y)

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Detector(pl.LightningModule):
    """A box loss over positives; a third of the batches has none."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.score, self.box = nn.Linear(64, 1), nn.Linear(64, 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.body(x)
        positive = (y == 3) & (torch.arange(len(y)) < (0 if batch_idx % 3 == 0 else 32))
        loss = F.binary_cross_entropy_with_logits(self.score(h)[:, 0], positive.float())
        if positive.any():
            boxes = x[positive].view(-1, 4, 16).mean(2)
            loss = loss + F.smooth_l1_loss(self.box(h[positive]), boxes)
        return loss

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=1e-3)


class DetectorOfZeros(Detector):
    """The same with a sum over all anchors, masked: zeros, not None, without positives."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.body(x)
        positive = ((y == 3) & torch.tensor(batch_idx % 3 != 0)).float()
        loss = F.binary_cross_entropy_with_logits(self.score(h)[:, 0], positive)
        boxes = x.view(-1, 4, 16).mean(2)
        distance = F.smooth_l1_loss(self.box(h), boxes, reduction="none").sum(1)
        return loss + (distance * positive).sum() / positive.sum().clamp_min(1.0)


class Average(pl.LightningModule):
    """A teacher that follows the student, asks for a gradient or not, and gives targets."""

    def __init__(self, *, trainable, target=True):
        super().__init__()
        self.student, self.teacher, self.target = mlp(), mlp(), target
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(trainable)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.student(x)
        loss = F.cross_entropy(logits, y)
        if self.target:
            with torch.no_grad():
                goal = self.teacher(x + 0.05 * torch.randn_like(x)).softmax(1)
            loss = loss + F.mse_loss(logits.softmax(1), goal)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for mine, theirs in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                mine.lerp_(theirs, 0.05)

    def configure_optimizers(self):
        return optim.Adam(self.student.parameters(), lr=1e-3)


class AverageHeldByAll(Average):
    """The teacher is in the optimizer with everything else, and gets no gradient."""

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Byol(pl.LightningModule):
    def __init__(self, *, trainable):
        super().__init__()
        self.online = self._encoder()
        self.target = self._encoder()
        self.target.load_state_dict(self.online.state_dict())
        self.target.requires_grad_(trainable)
        self.predictor = nn.Sequential(
            nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32)
        )

    @staticmethod
    def _encoder():
        return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        one, two = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
        loss = 0.0
        for left, right in ((one, two), (two, one)):
            goal = self.target(right).detach()
            loss = (
                loss + 2 - 2 * F.cosine_similarity(self.predictor(self.online(left)), goal).mean()
            )
        return loss

    def on_before_zero_grad(self, optimizer):
        with torch.no_grad():
            for mine, theirs in zip(
                self.target.parameters(), self.online.parameters(), strict=True
            ):
                mine.lerp_(theirs, 0.01)

    def configure_optimizers(self):
        return optim.Adam([*self.online.parameters(), *self.predictor.parameters()], lr=1e-3)


class Own(pl.LightningModule):
    """A temperature that the training step moves by hand."""

    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x) * self.log_scale.exp(), y)
        (slope,) = torch.autograd.grad(loss, self.log_scale, retain_graph=True)
        with torch.no_grad():
            self.log_scale -= 1e-3 * slope
        return F.cross_entropy(self.net(x) * self.log_scale.exp(), y)

    def configure_optimizers(self):
        return optim.Adam(self.net.parameters(), lr=1e-3)


class OneParameter(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.slope * x.sum(1, keepdim=True), y)

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=1e-2)


class Spectrum(nn.Module):
    """Complex weights between two Fourier transforms."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(33, dtype=torch.cfloat))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(
            torch.fft.irfft(torch.fft.rfft(x, norm="ortho") * self.filter, norm="ortho")
        )


def normed(wrap):
    net = mlp()
    return Program(nn.Sequential(*[wrap(m) if isinstance(m, nn.Linear) else m for m in net]))


class Finetuning(pl.callbacks.BackboneFinetuning):
    def __init__(self):
        super().__init__(unfreeze_backbone_at_epoch=2, backbone_initial_lr=1e-4, verbose=False)


class WithBackbone(pl.LightningModule):
    def __init__(self):
        super().__init__()
        net = trained(mlp())
        self.backbone, self.head = net[:4], nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.backbone(x)), y)

    def configure_optimizers(self):
        return optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-3)


DIGITS = [
    pytest.param(frozen_backbone, id="frozen backbone, all handed over"),
    pytest.param(frozen_backbone_filtered, id="frozen backbone, filtered"),
    pytest.param(bitfit, id="biases only"),
    pytest.param(
        lambda: Program(trained(mlp()), optimizer=partial(optim.Adam, lr=1e-5)), id="fine-tuning"
    ),
    pytest.param(
        lambda: Program(trained(mlp(), 30), optimizer=partial(optim.SGD, lr=1e-3, momentum=0.9)),
        id="fine-tuning with sgd",
    ),
    pytest.param(lora, id="LoRA"),
    pytest.param(partial(residuals, "last"), id="zero-init residual"),
    pytest.param(partial(residuals, "gate"), id="ReZero"),
    pytest.param(partial(residuals, "scale"), id="LayerScale"),
    pytest.param(partial(residuals, "", depth=16), id="deep pre-norm"),
    pytest.param(zero_head, id="zero-init head"),
    pytest.param(deep_resnet, id="deep ResNet", marks=pytest.mark.slow),
    pytest.param(
        partial(deep_resnet, zero_init=True), id="deep ResNet, zero-init", marks=pytest.mark.slow
    ),
    pytest.param(lambda: Program(Experts()), id="experts"),
    pytest.param(lambda: Program(Experts(64)), id="many experts", marks=pytest.mark.slow),
    pytest.param(lambda: Program(Experts(skewed=True)), id="experts, most of them never routed"),
    pytest.param(lambda: Program(LayerDrop()), id="LayerDrop"),
    pytest.param(lambda: Program(LayerDrop(p=0.95)), id="LayerDrop 0.95"),
    pytest.param(lambda: Program(StochasticDepth()), id="stochastic depth"),
    pytest.param(Tasks, id="heads by task"),
    pytest.param(Detector, id="batches without positives"),
    pytest.param(DetectorOfZeros, id="batches without positives, zeros"),
    pytest.param(partial(Average, trainable=True), id="mean teacher that requires grad"),
    pytest.param(partial(Average, trainable=False), id="mean teacher"),
    pytest.param(partial(Average, trainable=False, target=False), id="moving average"),
    pytest.param(partial(AverageHeldByAll, trainable=False), id="mean teacher in the optimizer"),
    pytest.param(partial(Byol, trainable=True), id="BYOL that requires grad"),
    pytest.param(partial(Byol, trainable=False), id="BYOL"),
    pytest.param(Own, id="a parameter stepped by hand"),
    pytest.param(lambda: Program(Spectrum()), id="complex parameters"),
    pytest.param(partial(normed, parametrizations.weight_norm), id="weight norm"),
    pytest.param(partial(normed, parametrizations.spectral_norm), id="spectral norm"),
    pytest.param(partial(normed, parametrizations.orthogonal), id="orthogonal weights"),
    pytest.param(partial(normed, nn.utils.weight_norm), id="weight norm with hooks"),
]


@pytest.mark.parametrize("program", DIGITS)
def test_images(program):
    assert alarms(fit(program, digits(), epochs=4)) == []


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: Program(PositionEmbedding()), id="transformer"),
        pytest.param(lambda: Program(PositionEmbedding(8)), id="deep pre-norm transformer"),
        pytest.param(
            lambda: Program(PositionEmbedding(norm_first=False)), id="post-norm transformer"
        ),
        pytest.param(LanguageModel, id="tied weights"),
        pytest.param(lambda: Program(Bag()), id="lookup table"),
        pytest.param(SparseBag, id="sparse lookup table"),
        pytest.param(lambda: Program(Recurrent(nn.LSTM)), id="LSTM"),
        pytest.param(lambda: Program(Recurrent(nn.GRU, num_layers=2)), id="GRU"),
        pytest.param(
            lambda: Program(Recurrent(nn.LSTM, num_layers=3, bidirectional=True)),
            id="deep bidirectional LSTM",
        ),
        pytest.param(lambda: Program(Recurrent(nn.RNN)), id="tanh RNN"),
    ],
)
@pytest.mark.parametrize("length", [16, pytest.param(48, marks=pytest.mark.slow)])
def test_tokens(program, length):
    assert alarms(fit(program, sequences(length=length), epochs=4)) == []


class Words(Program):
    """A large table of which a batch touches few rows, in a group of its own."""

    def __init__(self, optimizer):
        super().__init__(Bag(vocabulary=200_000))
        self.make = optimizer

    def configure_optimizers(self):
        net = self.net
        return self.make([{"params": net.table.parameters()}, {"params": net.head.parameters()}])


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(partial(optim.SGD, lr=0.1), id="sgd"),
        pytest.param(partial(optim.Adagrad, lr=0.01), id="adagrad"),
        pytest.param(partial(optim.Adam, lr=1e-3), id="adam"),
    ],
)
def test_large_tables(optimizer):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 200_000, (512, 8), generator=generator)
    data = DataLoader(TensorDataset(ids, ids[:, 0] % 2), batch_size=32, shuffle=True)
    assert alarms(fit(lambda: Words(optimizer), data, epochs=3)) == []


def test_one_parameter():
    assert alarms(fit(OneParameter, regression(), epochs=8)) == []


def test_backbone_finetuning():
    run = fit(WithBackbone, digits(), epochs=5, callbacks=(Finetuning(),))
    assert alarms(run) == []


def test_targets_far_from_zero():
    x = torch.randn(512, 10)
    y = 150.0 + 77.0 * (x @ torch.randn(10, 1)) / math.sqrt(10)
    data = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
    program = Program(net, F.mse_loss, partial(optim.Adam, lr=1e-2))
    assert alarms(fit(lambda: program, data, epochs=30)) == []
