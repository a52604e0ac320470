"""Models that learn the training data by heart, and the programs without the bug."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit, names

ADAM = partial(torch.optim.Adam, lr=3e-3)


class Validated(Program):
    """A program that returns its validation loss."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)


class Logged(Program):
    """A program that only logs it, under a name of its own."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("loss/val", self.loss(self(x), y))


class Functional(pl.LightningModule):
    """A network written by hand, with a loss written by hand."""

    def __init__(self, width, decay=0.0):
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, width) / 8**0.5)
        self.bias = nn.Parameter(torch.randn(width))
        self.second = nn.Parameter(torch.randn(width, 1) / width**0.5)
        self.decay = decay

    def loss(self, batch):
        x, y = batch
        return ((torch.tanh(x @ self.first + self.bias) @ self.second - y) ** 2).mean()

    def training_step(self, batch, batch_idx):
        return {"loss": self.loss(batch)}

    def validation_step(self, batch, batch_idx):
        return {"loss": self.loss(batch)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=self.decay)


def loaders(x, y, train, batch=32):
    """Split into training and validation data."""
    parts = TensorDataset(x[:train], y[:train]), TensorDataset(x[train:], y[train:])
    return [DataLoader(part, batch_size=batch, shuffle=i == 0) for i, part in enumerate(parts)]


def labels(n, train, noise=0.3, shape=(20,), classes=3):
    """Points whose label is a linear function, and wrong for a share of them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator)
    weight = torch.randn(x[0].numel(), classes, generator=generator)
    y = (x.flatten(1) @ weight).argmax(1)
    wrong = torch.rand(n, generator=generator) < noise
    y = torch.where(wrong, torch.randint(0, classes, (n,), generator=generator), y)
    return loaders(x, y, train)


def curve(n, train, noise=0.5):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 8, generator=generator)
    y = x[:, :1] * x[:, 1:2] + noise * torch.randn(n, 1, generator=generator)
    return loaders(x, y, train)


def mlp(width, depth=1):
    layers = [nn.Linear(20, width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def cnn(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 25, 3),
    )


def run(module, data, epochs, callbacks=(), **trainer):
    return fit(module, data[0], validation=data[1], epochs=epochs, callbacks=callbacks, **trainer)


CASES = [
    pytest.param(
        (lambda: Validated(mlp(128), optimizer=ADAM), labels(360, 160), 25),
        (lambda: Validated(nn.Linear(20, 3), optimizer=ADAM), labels(2200, 2000, 0.1), 6),
        id="MLP on few noisy labels; more data and a smaller model",
    ),
    pytest.param(
        (lambda: Logged(cnn(32), optimizer=ADAM), labels(360, 160, shape=(1, 5, 5)), 20),
        (lambda: Logged(cnn(4), optimizer=ADAM), labels(2200, 2000, 0.1, shape=(1, 5, 5)), 4),
        id="CNN, the loss is only logged; more data",
    ),
    pytest.param(
        (lambda: Functional(512), curve(264, 64, noise=1.0), 160),
        (lambda: Functional(32, decay=0.1), curve(1664, 1600, noise=0.2), 12),
        id="functional regression; more data and weight decay",
    ),
]


@pytest.mark.parametrize(("bug", "fix"), CASES)
def test_overfitting(bug, fix):
    found, fixed = run(*bug), run(*fix)
    assert "overfitting" in names(found)
    (finding,) = (f for f in found.findings if f.name == "overfitting")
    assert finding.where == "validation"
    assert "has risen from" in finding.message
    assert alarms(fixed) == []


@pytest.mark.parametrize("guard", ["checkpoint", "stop"])
def test_only_info_where_the_best_weights_are_kept(guard, tmp_path):
    module, data, epochs = CASES[1].values[0]
    guards = {
        "checkpoint": ModelCheckpoint(tmp_path, monitor="loss/val"),
        "stop": EarlyStopping("loss/val", patience=15),
    }
    settings = {"enable_checkpointing": True} if guard == "checkpoint" else {}
    found = run(module, data, epochs, (guards[guard],), **settings)
    assert alarms(found) == []
    assert "overfitting" in {f.name for f in found.findings}
