"""NaN in the data, and the same programs with it handled."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression

SGD = partial(torch.optim.SGD, lr=0.02)


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def mlp(inputs=8):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 1))


def images(value, rows=slice(0, 1024, 100)):
    x, y = digits(flat=False).dataset.tensors
    x = x.clone()
    x[rows, 0, 3, 3] = value
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


def gaps():
    x, y = regression().dataset.tensors
    y = y.clone()
    y[::9] = math.nan
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


class Late(Program):
    """Leaves missing targets out after the loss of each sample, which is too late."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self(x) - y) ** 2
        return torch.where(y.isnan(), torch.zeros_like(loss), loss).mean()


class Early(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        there = ~y.isnan()
        return F.mse_loss(self(x)[there], y[there])


class Series(Program):
    """A dictionary as a batch, and a GRU."""

    def __init__(self, fill):
        super().__init__(nn.GRU(1, 16, batch_first=True))
        self.head = nn.Linear(16, 1)
        self.fill = fill

    def training_step(self, batch, batch_idx):
        x = batch["x"][:, :, None]
        x = x.nan_to_num(posinf=0.0) if self.fill else x
        return F.mse_loss(self.head(self.net(x)[0][:, -1]), batch["y"])


def dictionaries():
    x, y = regression().dataset.tensors
    x = x.clone()
    x[::20, 3] = math.inf
    x[::21, 4] = math.nan
    items = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    return DataLoader(items, batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("bug", "fix", "place"),
    [
        pytest.param(
            lambda: (lambda: Program(conv()), images(math.nan)),
            lambda: (lambda: Program(conv()), images(0.0)),
            "batch[0]",
            id="pixels",
        ),
        pytest.param(
            lambda: (lambda: Late(mlp(), optimizer=SGD), gaps()),
            lambda: (lambda: Early(mlp(), optimizer=SGD), gaps()),
            "batch[1]",
            id="targets left out too late",
        ),
        pytest.param(
            lambda: (lambda: Series(False), dictionaries()),
            lambda: (lambda: Series(True), dictionaries()),
            "batch['x']",
            id="series in a dictionary",
        ),
    ],
)
def test_missing_values(bug, fix, place):
    found, fixed = fit(*bug()), fit(*fix())
    assert "non-finite-input" in names(found)
    assert places(found, "non-finite-input") == {place}
    roots = {f.name for f in found.findings if not f.caused_by}
    assert "non-finite-input" in roots
    assert not roots & {"non-finite-loss", "non-finite-gradient", "non-finite-activation"}
    assert alarms(fixed) == []


def test_one_bad_sample_between_the_looks_is_found_when_it_comes_again():
    x, y = digits(flat=False).dataset.tensors
    x = x.clone()
    x[930, 0, 3, 3] = math.nan
    data = DataLoader(TensorDataset(x, y), batch_size=32)  # in batch 29
    found = fit(lambda: Program(conv()), data, epochs=3, max_steps=90)
    finding = next(f for f in found.findings if f.name == "non-finite-input")
    assert finding.evidence["batch"] == 29.0
    assert "batch 29 in epoch 1" in finding.message
