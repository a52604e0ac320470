"""Healthy training with chosen modes, linear layers in a row, equal positions, many layers."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from lightning_debug import DebugSuite
from tests.runs import Program, alarms, digits, fit, names, sequences


def dense(width=64):
    return nn.Sequential(
        nn.Linear(64, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(width, 10),
    )


class Backbone(nn.Module):
    """A frozen backbone that stays in eval mode below a head."""

    def __init__(self):
        super().__init__()
        self.body = dense()[:4].requires_grad_(False).eval()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.body(x))


class FrozenNorms(Program):
    """Batch norms keep their statistics while the layers around them are fine-tuned."""

    def on_train_batch_start(self, batch, batch_idx):
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()


class Stages(nn.Module):
    """Decides by itself that its stem stays in eval mode, though its weights are trained."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = dense()[:4], nn.Linear(64, 10)

    def train(self, mode=True):
        super().train(mode)
        self.stem.eval()
        return self

    def forward(self, x):
        return self.head(self.stem(x))


def one_dropout_off():
    net = dense()
    net[3].eval()
    return Program(net)


def nothing_to_switch():
    net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
    return Program(net).eval()


def no_probability():
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.0), nn.Linear(64, 10))
    return Program(net).eval()


def probe_in_eval_mode():
    return Program(Backbone()).eval()


class MeanTeacher(Program):
    """The teacher is a copy in eval mode that asks for gradients and never gets any."""

    def __init__(self, no_grad=True):
        super().__init__(dense())
        self.teacher = copy.deepcopy(self.net).eval()
        self.no_grad = no_grad
        if not no_grad:
            self.teacher.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        with torch.set_grad_enabled(not self.no_grad):
            hint = self.teacher(x).softmax(1)
        return F.cross_entropy(out, y) + 0.1 * F.mse_loss(out.softmax(1), hint)

    def configure_optimizers(self):
        return optim.Adam(self.net.parameters(), lr=1e-3)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)


class SelfEvaluation(Program):
    """Looks at its own prediction in eval mode, and goes back."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.net.eval()
        with torch.no_grad():
            self.log("clean", F.cross_entropy(self(x), y))
        self.net.train()
        return F.cross_entropy(self(x), y)


class Adversarial(Program):
    """The attack is found in eval mode, with gradients on."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.net.eval()
        attacked = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(self(attacked), y), attacked)
        self.net.train()
        return F.cross_entropy(self((x + 0.01 * slope.sign()).detach()), y)


class Gan(pl.LightningModule):
    """The critic is in eval mode while the generator learns."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
        self.critic = nn.Sequential(
            nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(64, 1)
        )

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g_step, d_step = self.optimizers()
        self.critic.train()
        fake = self.generator(torch.randn(len(real), 8))
        d_loss = F.softplus(-self.critic(real)).mean()
        d_loss = d_loss + F.softplus(self.critic(fake.detach())).mean()
        d_step.zero_grad()
        self.manual_backward(d_loss)
        d_step.step()
        self.critic.eval()
        g_step.zero_grad()
        self.manual_backward(F.softplus(-self.critic(fake)).mean())
        g_step.step()

    def configure_optimizers(self):
        return (
            optim.Adam(self.generator.parameters(), lr=2e-4),
            optim.Adam(self.critic.parameters(), lr=2e-4),
        )


class Validated(Program):
    def __init__(self, net=None):
        super().__init__(net or dense())

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))


class MonteCarloDropout(Validated):
    """Only the dropouts are put into train mode."""

    def validation_step(self, batch, batch_idx):
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        super().validation_step(batch, batch_idx)


class MonteCarloNetwork(Validated):
    """The whole network is put into train mode, and samples each input; it has no batch norm."""

    def __init__(self):
        super().__init__(
            nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
        )

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.net.train()
        samples = torch.stack([self(x) for _ in range(4)])
        self.net.eval()
        self.log("val_loss", F.cross_entropy(samples.mean(0), y))


class AdaptedNorms(Validated):
    """Batch norms use the statistics of the domain that they are tested in."""

    def on_validation_start(self):
        self.net[1].train()


class NothingToSwitch(Validated):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)))

    def validation_step(self, batch, batch_idx):
        self.train()
        super().validation_step(batch, batch_idx)


class AdaptsToTask(Validated):
    """Validation takes a few steps on a copy, with gradients on and in train mode."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        learner = self.net.train()
        with torch.enable_grad():
            half = len(x) // 2
            loss = F.cross_entropy(learner(x[:half]), y[:half])
            torch.autograd.grad(loss, list(learner.parameters()))
        self.net.eval()
        self.log("val_loss", F.cross_entropy(self.net(x[half:]), y[half:]))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: Program(Backbone()), id="frozen backbone"),
        pytest.param(lambda: FrozenNorms(dense()), id="frozen batch norms"),
        pytest.param(lambda: Program(Stages()), id="a train method of its own"),
        pytest.param(one_dropout_off, id="one dropout off"),
        pytest.param(nothing_to_switch, id="nothing that a mode changes"),
        pytest.param(no_probability, id="dropout of nothing"),
        pytest.param(probe_in_eval_mode, id="linear probe in eval mode"),
        pytest.param(MeanTeacher, id="mean teacher under no_grad"),
        pytest.param(lambda: MeanTeacher(no_grad=False), id="frozen teacher"),
        pytest.param(lambda: SelfEvaluation(dense()), id="self-evaluation"),
        pytest.param(lambda: Adversarial(dense()), id="adversarial examples"),
        pytest.param(Gan, id="critic in eval mode for the generator"),
    ],
)
def test_training_modes(program):
    suite = fit(program, digits(n=512))
    assert alarms(suite) == []


@pytest.mark.parametrize(
    "program",
    [Validated, MonteCarloDropout, MonteCarloNetwork, AdaptedNorms, NothingToSwitch, AdaptsToTask],
)
def test_validation_modes(program):
    suite = fit(program, digits(n=512), validation=digits(n=1500, shuffle=False))
    assert [a for a in alarms(suite) if "overlap" not in a] == []


class Lora(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.base = nn.Linear(width, width)
        self.down, self.up = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Attention(nn.Module):
    """One projection for all three, a projection behind them, no residual connection."""

    def __init__(self, width=32):
        super().__init__()
        self.proj, self.qkv = nn.Linear(8, width), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.proj(x.view(len(x), 8, 8))
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        h = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v
        h = self.out(h.transpose(1, 2).flatten(2))
        return self.head(h.mean(1))


class Patches(nn.Module):
    """Patches by a strided convolution, and linear layers behind them."""

    def __init__(self):
        super().__init__()
        self.patch, self.mix = nn.Conv2d(1, 32, 2, stride=2), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.mix(self.patch(x).flatten(2).transpose(1, 2)).relu()
        return self.head(x.mean(1))


class Decoder(nn.Module):
    """An autoencoder: a latent code, and a map made of it by a linear layer."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)
        )
        self.project = nn.Linear(16, 8 * 16)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, x):
        return self.decoder(self.project(self.encoder(x)).view(-1, 8, 4, 4))


class Reconstruction(Program):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(x), x)


def separable(cin, cout):
    return nn.Sequential(
        nn.Conv2d(cin, cin, 3, padding=1, groups=cin), nn.Conv2d(cin, cout, 1), nn.ReLU()
    )


def mobile():
    """Depthwise and pointwise, rows and columns, and a linear bottleneck without a sum."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        separable(16, 32),
        nn.Conv2d(32, 32, (1, 3), padding=(0, 1)),
        nn.Conv2d(32, 32, (3, 1), padding=(1, 0)),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 48, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


class Upscaler(nn.Module):
    """Convolution, shuffled pixels, convolution."""

    def __init__(self):
        super().__init__()
        self.head, self.up = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 64, 3, padding=1)
        self.tail = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x):
        x = F.pixel_shuffle(self.up(self.head(F.avg_pool2d(x, 2)).relu()), 2)
        return self.tail(x)


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.join = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        skip = self.down(x).relu()
        up = self.up(self.middle(F.max_pool2d(skip, 2)).relu())
        return self.out(self.join(torch.cat([skip, up], 1)).relu())


class EncoderAndHead(nn.Module):
    """The embedding of an encoder ends linear; a head reads it."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.encoder(x))


class LatentDynamics(nn.Module):
    """A linear step in the space of the codes, between an encoder and a decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        self.step = nn.Linear(32, 32, bias=False)
        self.decoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        return self.decoder(self.step(self.encoder(x)))


class SimSiam(pl.LightningModule):
    """The projection goes into the predictor, and without its gradient into the loss."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64, affine=False)
        )
        self.predictor = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        one, other = (self.body(x + 0.1 * torch.randn_like(x)) for _ in range(2))
        loss = -F.cosine_similarity(self.predictor(one), other.detach()).mean()
        return loss - F.cosine_similarity(self.predictor(other), one.detach()).mean()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Byol(pl.LightningModule):
    """A projector that ends linear feeds a predictor; a slow copy gives the targets."""

    def __init__(self):
        super().__init__()
        self.projector = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)
        )
        self.predictor = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)
        )
        self.target = copy.deepcopy(self.projector).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        one, other = (x + 0.1 * torch.randn_like(x) for _ in range(2))
        with torch.no_grad():
            goal = self.target(other)
        out = self.predictor(self.projector(one))
        return 2.0 - 2.0 * F.cosine_similarity(out, goal).mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for slow, fast in zip(
                self.target.parameters(), self.projector.parameters(), strict=True
            ):
                slow.lerp_(fast, 0.05)

    def configure_optimizers(self):
        return optim.Adam([*self.projector.parameters(), *self.predictor.parameters()], lr=1e-3)


class CentreLoss(Program):
    """The embedding in front of the classifier has a loss of its own."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)))
        self.classifier, self.centres = nn.Linear(32, 10), nn.Embedding(10, 32)

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        return F.cross_entropy(self.classifier(z), y) + 0.01 * F.mse_loss(z, self.centres(y))


class Mixture(nn.Module):
    """A soft choice of codes is a lookup, and so is the first layer of one-hot inputs."""

    def __init__(self):
        super().__init__()
        self.pick, self.codes = nn.Linear(64, 16), nn.Parameter(torch.randn(16, 32) / 4)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.pick(x).softmax(1) @ self.codes)


class InputProjection(nn.Module):
    """A projection in front of a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.proj, self.rnn = nn.Linear(8, 32), nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.rnn(self.proj(x.view(len(x), 8, 8)))[0][:, -1])


def pooled():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Gated(nn.Module):
    """A residual block that ends in a gate with a projection of its own, as in a TFT."""

    def __init__(self):
        super().__init__()
        self.lead = nn.Linear(64, 32)
        self.body = nn.Sequential(
            nn.Linear(32, 32), nn.ELU(), nn.Linear(32, 32), nn.Dropout(0.1), nn.Linear(32, 64)
        )
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        x = F.elu(self.lead(x))
        return self.head(self.norm(x + F.glu(self.body(x))))


def frozen_projection():
    """The projection that ends a frozen backbone, and a head for it."""
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).requires_grad_(False)
    return nn.Sequential(*body, nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("program", "flat"),
    [
        pytest.param(
            lambda: Program(
                nn.Sequential(nn.Linear(64, 64), nn.ReLU(), Lora(64), nn.ReLU(), nn.Linear(64, 10))
            ),
            True,
            id="adapter of low rank",
        ),
        pytest.param(lambda: Program(Attention()), True, id="attention by hand"),
        pytest.param(lambda: Program(Patches()), False, id="patches"),
        pytest.param(lambda: Reconstruction(Decoder()), False, id="latent code, map of a vector"),
        pytest.param(lambda: Program(mobile()), False, id="separable convolutions"),
        pytest.param(lambda: Reconstruction(Upscaler()), False, id="shuffled pixels"),
        pytest.param(lambda: Reconstruction(Unet()), False, id="u-net"),
        pytest.param(lambda: Program(EncoderAndHead()), True, id="encoder and head"),
        pytest.param(Byol, True, id="projector and predictor"),
        pytest.param(SimSiam, True, id="projector and predictor, without a copy"),
        pytest.param(lambda: Reconstruction(LatentDynamics()), True, id="linear dynamics"),
        pytest.param(CentreLoss, True, id="embedding with a loss"),
        pytest.param(lambda: Program(Mixture()), True, id="soft lookup"),
        pytest.param(lambda: Program(InputProjection()), True, id="projection before a gru"),
        pytest.param(lambda: Program(Gated()), True, id="gate"),
        pytest.param(lambda: Program(pooled()), False, id="max pooling"),
        pytest.param(lambda: Program(frozen_projection()), True, id="frozen projection"),
    ],
)
def test_chains(program, flat):
    assert alarms(fit(program, digits(flat=flat, n=512))) == []


class Broadcast(nn.Module):
    """Positions are pooled on purpose, and each of them is given the mean."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1)
        self.mix, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)
        self.last, self.head = nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, ids):
        x = self.body(self.table(ids))
        x = x.mean(1, keepdim=True).expand_as(x)
        x = F.gelu(self.mix(self.norm(x)))
        return self.head(F.gelu(self.last(x)).mean(1))


class Seeds(nn.Module):
    """Queries that do not depend on the sample, in branches that start at zero."""

    def __init__(self):
        super().__init__()
        self.table, self.seeds = nn.Embedding(20, 32), nn.Parameter(torch.zeros(1, 4, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.branch, self.head = nn.Linear(32, 32), nn.Linear(32, 2)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, ids):
        x = self.table(ids)
        x = x + self.branch(F.gelu(x))
        seeds = self.seeds.expand(len(ids), -1, -1)
        return self.head(self.attention(seeds, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("net", [Broadcast, Seeds])
def test_equal_positions(net):
    assert alarms(fit(lambda: Program(net()), sequences())) == []


class RisesByEpoch(Program):
    """A warm-up that rises once an epoch, from next to nothing."""

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=1e-3)
        warm = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: (1e-6, 0.5, 1.0)[min(epoch, 2)])
        return [optimizer], [warm]


def test_warm_up_by_epoch():
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    assert alarms(fit(lambda: RisesByEpoch(net), digits(n=512), epochs=4)) == []


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + 0.03 * self.fc(self.norm(x)).relu()


TAPPED = """no-gradient vanishing-gradient exploding-gradient activation-collapse dead-relu
update-too-large weights-not-updated non-linearity-missing module-in-eval-mode initial-loss
constant-loss-terms""".split()


def test_hundreds_of_layers():
    body = [Residual(8) for _ in range(250)]
    net = nn.Sequential(nn.Linear(64, 8), *body, nn.LayerNorm(8), nn.Linear(8, 10))
    suite = DebugSuite(debug=True, select=TAPPED, sinks=[])
    assert alarms(fit(lambda: Program(net), digits(n=96), epochs=1, suite=suite)) == []


def test_hundreds_of_layers_in_a_row_are_told_of_in_short():
    net = nn.Sequential(nn.Linear(64, 8), *[nn.Linear(8, 8) for _ in range(400)], nn.Linear(8, 10))
    suite = DebugSuite(debug=True, select=TAPPED, sinks=[])
    fit(lambda: Program(net), digits(n=192), epochs=1, suite=suite)
    assert "non-linearity-missing" in names(suite)
    assert max(len(finding.message) for finding in suite.findings) < 400
    assert max(len(finding.where) for finding in suite.findings) < 200
