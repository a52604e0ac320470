"""Learning rates that are too high, the factor that is suggested, and what it makes of the run."""

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite
from tests.runs import Program, alarms, digits, fit, names, regression, sequences


class Losses(pl.Callback):
    """Keeps the loss of every batch."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.values.append(outputs["loss"].item())

    @property
    def last(self):
        values = self.values[-16:]
        return sum(values) / len(values) if all(map(math.isfinite, values)) else math.inf


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        self.rnn = nn.LSTM(32, 32, batch_first=True)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0][:, -1])


class ByHand(Program):
    """Manual optimization of a network of bare weights."""

    automatic_optimization = False

    def __init__(self, optimizer):
        super().__init__(nn.Identity(), optimizer=optimizer)
        self.automatic_optimization = False
        self.first = nn.Parameter(torch.randn(64, 32) / 8.0)
        self.second = nn.Parameter(torch.randn(32, 10) / 6.0)

    def forward(self, x):
        return torch.tanh(x @ self.first) @ self.second

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = F.cross_entropy(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {"loss": loss.detach()}


def mlp(optimizer):
    layers = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    return Program(nn.Sequential(*layers), optimizer=optimizer)


def cnn(optimizer):
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    return Program(net, optimizer=optimizer)


def normed(optimizer):
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )
    return Program(net, optimizer=optimizer)


def regressor(optimizer):
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    return Program(net, F.mse_loss, optimizer)


def encoder(optimizer):
    return Program(Encoder(), optimizer=optimizer)


def recurrent(optimizer):
    return Program(Recurrent(), optimizer=optimizer)


images = partial(digits, flat=False)
PROGRAMS = {
    "mlp, Adam": (mlp, optim.Adam, 1.0, digits),
    "cnn, Adam": (cnn, optim.Adam, 0.3, images),
    "cnn, SGD": (cnn, optim.SGD, 5.0, images),
    "batch norm, AdamW": (normed, optim.AdamW, 1.0, images),
    "regression, SGD": (regressor, optim.SGD, 2.0, regression),
    "regression, Adam": (regressor, optim.Adam, 1.0, regression),
    "transformer, Adam": (encoder, optim.Adam, 0.3, sequences),
    "lstm, SGD": (recurrent, optim.SGD, 50.0, sequences),
    "manual optimization, RMSprop": (ByHand, optim.RMSprop, 3.0, digits),
}


@pytest.mark.parametrize(("program", "kind", "lr", "data"), PROGRAMS.values(), ids=list(PROGRAMS))
def test_the_suggested_rate_makes_it_learn(program, kind, lr, data):
    before, after = Losses(), Losses()
    suite = fit(lambda: program(partial(kind, lr=lr)), data(), callbacks=(before,))
    [finding] = [f for f in suite.findings if f.name == "learning-rate-too-high"]
    assert finding.caused_by == ""
    assert finding.where == kind.__name__
    suggested = lr * finding.evidence["factor"]
    assert f"learning rate to {suggested:.3g}" in finding.fix
    fixed = fit(lambda: program(partial(kind, lr=suggested)), data(), callbacks=(after,))
    assert alarms(fixed) == []
    assert after.last < 0.9 * before.last


def test_without_experiments_it_is_told_by_steps_that_overshoot():
    suite = DebugSuite(preflight=False, sinks=[])
    suite = fit(lambda: mlp(partial(optim.SGD, lr=10.0)), digits(), suite=suite)
    assert "learning-rate-too-high" in names(suite)


class Tagger(nn.Module):
    """Predicts a label for each token, some of which are much more frequent than others."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(24, 32), nn.Linear(64, 24)
        self.rnn = nn.GRU(32, 32, batch_first=True, bidirectional=True)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0]).transpose(1, 2)


def tags():
    """The tag of a token is the one before it, or the token itself."""
    generator = torch.Generator().manual_seed(0)
    shares = 1.0 / torch.arange(1.0, 25.0) ** 1.5
    ids = torch.multinomial(shares, 512 * 17, replacement=True, generator=generator).view(512, 17)
    tags = torch.where(ids[:, 1:] % 2 == 0, ids[:, 1:], ids[:, :-1])
    return DataLoader(TensorDataset(ids[:, 1:], tags), batch_size=32, shuffle=True)


def test_a_rate_that_leads_to_the_shares_of_the_classes_and_no_further():
    def run(lr):
        return fit(
            lambda: Program(Tagger(), optimizer=partial(optim.Adam, lr=lr)), tags(), epochs=6
        )

    broken = run(0.7)
    [finding] = [f for f in broken.findings if f.name == "learning-rate-too-high"]
    assert finding.caused_by == ""
    assert "A constant prediction gives at most" in finding.message
    assert alarms(run(0.7 * finding.evidence["factor"])) == []


class Raised(Program):
    """A schedule that raises the rate when the model has learned something."""

    def __init__(self, factor):
        super().__init__(mlp(None).net, optimizer=partial(optim.Adam, lr=2e-3))
        self.factor = factor

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda n: self.factor if n > 100 else 1.0)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_a_rate_that_is_raised_late():
    broken = fit(lambda: Raised(500.0), digits(), epochs=8)
    assert "learning-rate-too-high" in names(broken)
    assert alarms(fit(lambda: Raised(0.5), digits(), epochs=8)) == []


def test_clipping_tells_lbfgs_of_a_curvature_that_is_not_there():
    def run(**settings):
        def program():
            net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
            return Program(net, optimizer=partial(optim.LBFGS, lr=0.1, max_iter=4))

        return fit(program, digits(n=256, batch=256), **settings)

    assert names(run(gradient_clip_val=0.1)) == {"learning-rate-too-high"}
    assert alarms(run()) == []
