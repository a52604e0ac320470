"""Gradients that spike and throw training back, and the same programs with the advised limit."""

import functools

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit

LOSSES: list[float] = []


def sgd(lr, momentum=0.0):
    return functools.partial(optim.SGD, lr=lr, momentum=momentum)


def spoilt(loader, *, every=150, size=60.0, inputs=8.0):
    """Make a few samples of a data set far larger than all others, as broken sensors do."""
    x, y = (t.clone() for t in loader.dataset.tensors)
    x[7::every] *= inputs
    if y.is_floating_point():
        y[7::every] *= size
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


def sensors():
    """A smooth function of eight numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 8, generator=generator)
    y = (x[:, :2].prod(1, keepdim=True) + x.sum(1, keepdim=True)) / 3
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


class Recorded(Program):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        LOSSES.append(float(outputs["loss"]))


class Reconstruction(Recorded):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(x), x)


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Linear(1, 32), nn.Parameter(0.3 * torch.randn(8, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.unsqueeze(-1)) + self.places).mean(1))


class Manual(Recorded):
    """Manual optimization, for which the Trainer clips nothing."""

    def __init__(self, net, loss, optimizer, limit=None):
        super().__init__(net, loss, optimizer)
        self.automatic_optimization = False
        self.limit = limit

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        if self.limit:
            self.clip_gradients(optimizer, self.limit, "norm")
        optimizer.step()
        return loss


def mlp():
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
    )


class Series(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x):
        return self.head(self.rnn(x.unsqueeze(-1))[0].mean(1))


def usual(losses):
    """Return the median of the last losses: the spoilt batches do not count."""
    return float(torch.tensor(losses[-40:]).median())


def run(module, data, epochs, **settings):
    LOSSES.clear()
    suite = fit(module, data, epochs=epochs, **settings)
    return suite, usual(LOSSES)


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(
            lambda: Recorded(mlp(), F.mse_loss, sgd(0.03)), lambda: spoilt(sensors()), 5, id="mlp"
        ),
        pytest.param(
            lambda: Reconstruction(cnn(), optimizer=sgd(0.1)),
            lambda: spoilt(digits(flat=False), inputs=60.0),
            5,
            id="cnn",
        ),
        pytest.param(
            lambda: Recorded(Attentive(), F.mse_loss, sgd(0.02, 0.9)),
            lambda: spoilt(sensors(), inputs=1.0),
            6,
            id="transformer",
        ),
    ],
)
def test_spikes_throw_training_back(module, data, epochs):
    found, before = run(module, data(), epochs)
    [finding] = [f for f in found.findings if f.name == "clipping-missing"]
    assert finding.severity is Severity.WARNING
    assert finding.where == "SGD"
    limit = finding.evidence["limit"]
    assert f"gradient_clip_val={limit:g}" in finding.fix
    fixed, after = run(module, data(), epochs, gradient_clip_val=limit)
    assert alarms(fixed) == []
    assert after < before


@pytest.mark.parametrize(("net", "lr"), [(mlp, 0.05), (Series, 0.2)], ids=["mlp", "lstm"])
def test_in_manual_optimization(net, lr):
    def module(limit=None):
        return lambda: Manual(net(), F.mse_loss, sgd(lr), limit)

    found, before = run(module(), spoilt(sensors()), 6)
    [finding] = [f for f in found.findings if f.name == "clipping-missing"]
    assert finding.severity is Severity.WARNING
    assert finding.fix.startswith("self.clip_gradients(optimizer, ")
    fixed, after = run(module(finding.evidence["limit"]), spoilt(sensors()), 6)
    assert alarms(fixed) == []
    assert after < before
