"""Healthy uses of batch norm and dropout that look like misuse."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.runs import Program, alarms, digits, fit, regression, sequences


def told(suite):
    """Return the alarms; the same data serve for training and validation here."""
    return [alarm for alarm in alarms(suite) if "train-val-overlap" not in alarm]


def dense(norm, width=64):
    return nn.Sequential(nn.Linear(64, width), norm, nn.ReLU(), nn.Linear(width, 10))


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))


class Cnn(nn.Module):
    def __init__(self, momentum=0.1, **settings):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8, momentum=momentum, **settings)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16, momentum=momentum, **settings)
        self.head = nn.Linear(16, 10)

    def features(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        return self.bn2(self.conv2(x)).relu().mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


class Checkpointed(Cnn):
    def forward(self, x):
        return self.head(checkpoint(self.features, x, use_reentrant=False))


class OverSteps(nn.Module):
    """A batch norm over all steps of three sequences."""

    def __init__(self):
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 16), nn.LSTM(16, 32, 2, True, True, 0.2)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 2)

    def forward(self, ids):
        states = self.lstm(self.table(ids))[0].transpose(1, 2)
        return self.head(self.norm(states).mean(2))


class InEval(nn.Module):
    """A network of which one batch norm stays as it is."""

    def __init__(self):
        super().__init__()
        self.net = dense(nn.BatchNorm1d(64).eval().requires_grad_(False))

    def train(self, mode=True):
        super().train(mode)
        self.net[1].eval()
        return self

    def forward(self, x):
        return self.net(x)


def conv(channels):
    """Two convolutions with biases that the batch norms take away again."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.mark.parametrize(
    ("net", "flat"),
    [
        pytest.param(lambda: conv(8), False, id="convolutions"),
        pytest.param(lambda: dense(nn.BatchNorm1d(16), 16), True, id="linear layers"),
    ],
)
def test_small_steps_do_not_move_a_bias_without_effect(net, flat):
    sgd = partial(torch.optim.SGD, lr=0.003, momentum=0.9)
    data = digits(flat=flat, n=1024)
    assert alarms(fit(lambda: Program(net(), optimizer=sgd), data, epochs=4)) == []


@pytest.mark.parametrize(
    ("net", "data"),
    [
        pytest.param(
            lambda: dense(nn.BatchNorm1d(64)), lambda: digits(n=322, batch=32), id="ragged batch"
        ),
        pytest.param(Cnn, lambda: digits(flat=False, n=60, batch=2), id="images, two a batch"),
        pytest.param(
            lambda: dense(nn.LayerNorm(64)), lambda: digits(n=60, batch=2), id="layer norm"
        ),
        pytest.param(
            lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3),
                nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(288, 10),
            ),
            lambda: digits(flat=False, n=60, batch=2),
            id="instance norm",
        ),
        pytest.param(InEval, lambda: digits(n=100, batch=4), id="batch norm in eval mode"),
        pytest.param(
            OverSteps,
            lambda: torch.utils.data.DataLoader(sequences(n=120).dataset, 3, shuffle=True),
            id="over time steps",
        ),
        pytest.param(lambda: Cnn(None), lambda: digits(flat=False, n=512), id="cumulative average"),
        pytest.param(
            lambda: Cnn(0.01, eps=1e-3), lambda: digits(flat=False, n=512), id="momentum 0.01"
        ),
        pytest.param(
            lambda: Cnn(track_running_stats=False),
            lambda: digits(flat=False, n=512),
            id="no statistics",
        ),
        pytest.param(Checkpointed, lambda: digits(flat=False, n=640), id="checkpointed"),
        pytest.param(
            lambda: dense(nn.BatchNorm1d(64, momentum=1.0)),
            lambda: digits(n=512, batch=512),
            id="all data in one batch",
        ),
    ],
)
def test_norm(net, data):
    suite = fit(lambda: Validated(net()), data(), validation=data(), epochs=2)
    assert [a for a in told(suite) if "batch-size" not in a] == []


class Scheduled(pl.Callback):
    """The momentum of batch norms falls from epoch to epoch, as in point clouds."""

    def on_train_epoch_start(self, trainer, pl_module):
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.5 * 0.5**trainer.current_epoch


def test_momentum_schedule():
    data = digits(flat=False, n=320)
    assert told(fit(lambda: Validated(Cnn()), data, epochs=4, callbacks=(Scheduled(),))) == []


class Probe(Program):
    """A linear probe: frozen features in eval mode, a batch norm without weights, a layer."""

    def __init__(self):
        super().__init__(Cnn().requires_grad_(False).eval())
        self.head = nn.Sequential(nn.BatchNorm1d(16, affine=False), nn.Linear(16, 10))

    def train(self, mode=True):
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, x):
        with torch.no_grad():
            features = self.net.features(x)
        return self.head(features)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=1e-2)


class Contrast(Program):
    """A momentum encoder, in train mode on purpose, follows the one that is trained."""

    def __init__(self):
        super().__init__(Cnn())
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.predictor = nn.Linear(10, 10)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                ours.lerp_(theirs, 0.01)
            wanted = F.normalize(self.teacher(x + 0.1 * torch.randn_like(x)), dim=1)
        made = self.predictor(self.net(x + 0.1 * torch.randn_like(x)))
        return 2.0 - 2.0 * F.cosine_similarity(made, wanted).mean()

    def configure_optimizers(self):
        parameters = [*self.net.parameters(), *self.predictor.parameters()]
        return torch.optim.Adam(parameters, lr=1e-3)


class Tuned(Program):
    """Its backbone is frozen for the first epoch, its batch norms are not."""

    def __init__(self):
        super().__init__(nn.Linear(16, 10))
        self.backbone = Cnn()
        self.backbone.head = nn.Identity()

    def forward(self, x):
        return self.net(self.backbone.features(x))

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=1e-3)


class Sharpness(Program):
    """Climbs before it descends; the second pass leaves the running statistics alone."""

    def __init__(self):
        super().__init__(Cnn())
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.cross_entropy(self(x), y)
        self.manual_backward(loss)
        moved = [(p, 0.02 * p.grad / (p.grad.norm() + 1e-8)) for p in self.parameters()]
        with torch.no_grad():
            for parameter, step in moved:
                parameter.add_(step)
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 0.0
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        for norm in norms:
            norm.momentum = 0.1
        with torch.no_grad():
            for parameter, step in moved:
                parameter.sub_(step)
        optimizer.step()
        self.log("loss", loss)


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.bn, self.fc2 = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 1)

    def forward(self, x):
        return self.fc2(F.leaky_relu(self.bn(self.fc1(x)), 0.2))


class Adversarial(Program):
    """Two networks in turn, each frozen while the other is trained."""

    def __init__(self):
        super().__init__(
            nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64))
        )
        self.judge = Judge()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, _ = batch
        makes, judges = self.optimizers()
        noise = torch.randn(x.shape[0], 16)
        self.toggle_optimizer(makes)
        loss = F.softplus(-self.judge(self.net(noise))).mean()
        makes.zero_grad()
        self.manual_backward(loss)
        makes.step()
        self.untoggle_optimizer(makes)
        self.toggle_optimizer(judges)
        real, made = self.judge(x), self.judge(self.net(noise).detach())
        loss = F.softplus(-real).mean() + F.softplus(made).mean()
        judges.zero_grad()
        self.manual_backward(loss)
        judges.step()
        self.untoggle_optimizer(judges)

    def configure_optimizers(self):
        settings = {"lr": 2e-4, "betas": (0.5, 0.999)}
        return [
            torch.optim.Adam(self.net.parameters(), **settings),
            torch.optim.Adam(self.judge.parameters(), **settings),
        ]


class Distilled(Program):
    """Follows a frozen teacher in eval mode."""

    def __init__(self):
        super().__init__(Cnn())
        self.teacher = Cnn().requires_grad_(False).eval()

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.teacher.eval()
        with torch.no_grad():
            wanted = self.teacher(x).softmax(1)
        out = self(x)
        return F.cross_entropy(out, y) + F.cross_entropy(out, wanted)

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=1e-3)


class Fixed(Program):
    """Trained from the start with batch norms whose scale, or whose scale and shift, is fixed."""

    def __init__(self):
        super().__init__(Cnn())
        self.net.bn1.requires_grad_(False)
        self.net.bn2.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("program", "flat", "callbacks"),
    [
        pytest.param(Probe, False, (), id="linear probe"),
        pytest.param(Contrast, False, (), id="momentum encoder"),
        pytest.param(Tuned, False, (BackboneFinetuning(1, lambda epoch: 1.5),), id="fine-tuning"),
        pytest.param(Sharpness, False, (), id="sharpness-aware"),
        pytest.param(Adversarial, True, (), id="adversarial"),
        pytest.param(Distilled, False, (), id="distilled"),
        pytest.param(Fixed, False, (), id="fixed scale"),
    ],
)
def test_part(program, flat, callbacks):
    data = digits(flat=flat, n=384)
    validation = data if program is Probe else None
    assert told(fit(program, data, validation=validation, epochs=3, callbacks=callbacks)) == []


class MonteCarlo(nn.Module):
    """Dropout that is always on; what asks for it varies."""

    def __init__(self, way):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 10)
        self.own, self.monte_carlo, self.way = AlwaysOn(), True, way

    def forward(self, x):
        x = self.fc1(x).relu()
        if self.way == "module":
            x = self.own(x)
        elif self.way == "flag":
            x = F.dropout(x, 0.3, training=self.training or self.monte_carlo)
        else:
            x = F.dropout(x, 0.3, training=True)
        return self.fc2(x)


class AlwaysOn(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, training=True)


class Sampled(Program):
    """Validates the mean of several passes with dropout."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        mean = torch.stack([self(x).softmax(1) for _ in range(5)]).mean(0)
        self.log("val_loss", F.nll_loss(mean.log(), y))


class SwitchedOn(Sampled):
    """Puts its dropout modules, and only these, into train mode to sample."""

    def validation_step(self, batch, batch_idx):
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        super().validation_step(batch, batch_idx)


class Zero(nn.Module):
    """Its probability, not its flag, depends on the mode."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.p = nn.Linear(64, 64), nn.Linear(64, 10), 0.3

    def forward(self, x):
        return self.fc2(F.dropout(self.fc1(x).relu(), self.p if self.training else 0.0))


class Variational(Program):
    """Draws its code in validation too."""

    def __init__(self):
        super().__init__(nn.Linear(64, 32))
        self.out = nn.Linear(16, 64)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, spread = self.net(x).chunk(2, -1)
        made = self.out(mean + spread.exp() * torch.randn_like(mean))
        penalty = 0.5 * (mean**2 + (2 * spread).exp() - 2 * spread - 1).sum(1).mean()
        return F.mse_loss(made, x, reduction="none").sum(1).mean() + 0.1 * penalty

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class Corrupted(Program):
    """Fills in what the step itself takes out of its input, in validation too."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(F.dropout(x, 0.3)), x)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class Hidden(Program):
    """Fills in tokens that a random mask hides, in validation too."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.mask, self.head = nn.Parameter(torch.zeros(32)), nn.Linear(32, 20)

    def forward(self, ids, hidden):
        shown = (~hidden).float().unsqueeze(-1)
        return self.head(self.body(self.net(ids) * shown + self.mask * (1.0 - shown)))

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        hidden = torch.rand(ids.shape) < 0.3
        return F.cross_entropy(self(ids, hidden)[hidden], ids[hidden])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.qkv = nn.Linear(32, 96)

    def forward(self, ids):
        x = self.body(self.table(ids))
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(lambda: Sampled(MonteCarlo("True")), digits, id="sampled"),
        pytest.param(lambda: Validated(MonteCarlo("module")), digits, id="module for it"),
        pytest.param(lambda: Validated(MonteCarlo("flag")), digits, id="flag for it"),
        pytest.param(
            lambda: SwitchedOn(
                nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
            ),
            digits,
            id="switched on",
        ),
        pytest.param(lambda: Validated(Zero()), digits, id="probability 0"),
        pytest.param(Variational, digits, id="autoencoder that draws"),
        pytest.param(Corrupted, digits, id="corrupted input"),
        pytest.param(Hidden, sequences, id="hidden tokens"),
        pytest.param(lambda: Validated(Transformer()), sequences, id="transformer"),
        pytest.param(lambda: Validated(OverSteps()), sequences, id="lstm with dropout"),
    ],
)
def test_evaluated(program, data):
    assert told(fit(program, data(), validation=data(), limit_train_batches=20)) == []


class Denoising(Program):
    """Nine in ten pixels of the input are dropped, and some of the target."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(F.dropout(x, 0.9) * 0.1), F.dropout(x, 0.1) * 0.9)


class Language(Program):
    """An LSTM whose dropped states are kept small, next to the loss of its head."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        self.words, self.drop = nn.Dropout1d(0.1), nn.Dropout(0.3)
        self.lstm, self.head = nn.LSTM(32, 48, batch_first=True), nn.Linear(48, 2)
        self.register_buffer("centres", torch.zeros(2, 48))

    def training_step(self, batch, batch_idx):
        ids, y = batch
        states = self.drop(self.lstm(self.words(self.net(ids)))[0])
        pooled = states.mean(1)
        loss = F.cross_entropy(self.head(pooled), y)
        loss = loss + 0.01 * states.pow(2).mean()
        return loss + 0.01 * (pooled - self.centres[y]).pow(2).mean()


class Towers(Program):
    """The score of two towers is a product of what dropout gives."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 8)))
        self.other, self.drop = copy.deepcopy(self.net), nn.Dropout(0.1)

    def forward(self, x):
        left, right = self.drop(self.net(x[:, :4])), self.drop(self.other(x[:, 4:]))
        return (left * right).sum(1, keepdim=True)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x), y)


class Residual(nn.Module):
    """A stream to which dropped branches are added, up to the output."""

    def __init__(self):
        super().__init__()
        self.stem, self.drop = nn.Linear(64, 10), nn.Dropout(0.1)
        self.branch = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 10))

    def forward(self, x):
        x = self.stem(x)
        return x + self.drop(self.branch(x))


class Spatial(nn.Module):
    """Drops channels of (N, T, C), laid out for it."""

    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Embedding(20, 24), nn.Linear(24, 48)
        self.drop, self.head = nn.Dropout1d(0.2), nn.Linear(48, 2)

    def forward(self, ids):
        x = self.inner(self.table(ids)).relu().permute(0, 2, 1).contiguous()
        return self.head(self.drop(x).mean(2))


class Losses(Program):
    """Drops some samples of the loss."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.dropout(F.cross_entropy(self(x), y, reduction="none"), 0.1).mean()


class Annealed(pl.Callback):
    """Dropout falls from epoch to epoch, or stops early."""

    def __init__(self, chances):
        self.chances = chances

    def on_train_epoch_start(self, trainer, pl_module):
        for module in pl_module.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.chances[trainer.current_epoch]


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(Denoising, digits, id="on data"),
        pytest.param(Language, sequences, id="activation penalty, centres, word dropout"),
        pytest.param(Towers, regression, id="two towers"),
        pytest.param(lambda: Program(Residual()), digits, id="residual output"),
        pytest.param(lambda: Program(Spatial()), sequences, id="spatial dropout"),
        pytest.param(Losses, digits, id="on losses"),
    ],
)
def test_dropped(program, data):
    assert told(fit(program, data(), limit_train_batches=20)) == []


@pytest.mark.parametrize("chances", [(0.3, 0.2, 0.1), (0.3, 0.0, 0.0), (0.0, 0.0, 0.3)])
def test_schedule_of_dropout(chances):
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    suite = fit(
        lambda: Validated(net),
        digits(n=512),
        validation=digits(n=64),
        epochs=3,
        callbacks=(Annealed(chances),),
        num_sanity_val_steps=2,
    )
    assert told(suite) == []
