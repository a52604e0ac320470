"""Layers that the model uses and does not own, and the same programs with them registered."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, names, places, sequences


class Listed(nn.Module):
    """Hidden layers in a Python list."""

    def __init__(self, broken):
        super().__init__()
        layers = [nn.Linear(64, 64) for _ in range(3)]
        self.layers = layers if broken else nn.ModuleList(layers)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


class Branches(nn.Module):
    """Convolutions of several sizes in a dict, batch norm included."""

    def __init__(self, broken):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        branches = {
            f"k{k}": nn.Sequential(nn.Conv2d(8, 8, k, padding=k // 2), nn.BatchNorm2d(8), nn.ReLU())
            for k in (1, 3)
        }
        self.branches = branches if broken else nn.ModuleDict(branches)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([branch(x) for branch in self.branches.values()], dim=1)
        return self.head(x.mean((2, 3)))


class Cell:
    """A recurrent cell written as a plain class."""

    def __init__(self):
        self.inputs, self.state = nn.Linear(16, 32), nn.Linear(32, 32)

    def __call__(self, x, h):
        return torch.tanh(self.inputs(x) + self.state(h))


class Recurrent(nn.Module):
    def __init__(self, broken):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(32, 2)
        self.cell = Cell()
        if not broken:
            self.layers = nn.ModuleList([self.cell.inputs, self.cell.state])

    def forward(self, ids):
        x, h = self.table(ids), torch.zeros(len(ids), 32)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


class Projected(nn.Module):
    """A projection that is made where it is needed."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.body = nn.Linear(64, 32)
        self.project = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.body(x))
        project = nn.Linear(x.shape[1], 32) if self.broken else self.project
        return self.head(F.relu(project(x)))


class Assigned(nn.Module):
    """The same, and the new layer takes the place of the old one."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.body, self.mix = nn.Linear(64, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.body(x))
        if self.broken:
            self.mix = nn.Linear(32, 32)
        return self.head(F.relu(self.mix(x)))


class Functional(pl.LightningModule):
    """Attention written by hand, its weights in a list; the optimizer gets parameters()."""

    def __init__(self, broken):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        weights = [nn.Parameter(torch.randn(32, 32) / math.sqrt(32)) for _ in range(3)]
        self.weights = weights if broken else nn.ParameterList(weights)

    def training_step(self, batch, batch_idx):
        ids, y = batch
        x = self.table(ids)
        q, k, v = (x @ w for w in self.weights)
        x = x + (q @ k.transpose(1, 2) / math.sqrt(32)).softmax(-1) @ v
        return F.cross_entropy(self.head(x.mean(1)), y)

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


HIDDEN = []


class Global(nn.Module):
    """The layers live in the file, not in the model."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        middle = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        if broken:
            HIDDEN[:] = []
            HIDDEN.append(middle)
        else:
            self.middle = middle
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(HIDDEN[0](x) if self.broken else self.middle(x))


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            lambda b: Program(Listed(b)),
            digits(),
            {f"net.layers[{i}].{name}" for i in range(3) for name in ("weight", "bias")},
            id="mlp, layers in a list",
        ),
        pytest.param(
            lambda b: Program(Branches(b)),
            digits(flat=False),
            {"net.branches['k1'].0.weight", "net.branches['k3'].1.weight"},
            id="cnn, branches in a dict",
        ),
        pytest.param(
            lambda b: Program(Recurrent(b)),
            sequences(),
            {"net.cell.inputs.weight", "net.cell.state.weight"},
            id="rnn, a cell that is no module",
        ),
        pytest.param(
            lambda b: Program(Projected(b)),
            digits(),
            {"Linear.weight in net"},
            id="mlp, a layer built in forward",
        ),
        pytest.param(
            lambda b: Program(Assigned(b)),
            digits(),
            {"net.mix.weight"},
            id="mlp, a layer replaced in forward",
        ),
        pytest.param(
            Functional, sequences(), {"weights[0]", "weights[2]"}, id="attention, a list of weights"
        ),
        pytest.param(
            lambda b: Program(Global(b)), digits(), {"Linear.weight in net"}, id="mlp, a global"
        ),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data, limit_train_batches=10, epochs=1)
    assert "unregistered-module" in names(broken)
    assert where <= places(broken, "unregistered-module")
    assert not any("head" in place for place in places(broken, "unregistered-module"))
    assert broken.findings[0].severity is Severity.ERROR
    assert alarms(fit(lambda: program(False), data)) == []


class OwnOptimizer(pl.LightningModule):
    """The layers of a list, handed to the optimizer one by one: trained, and not saved."""

    def __init__(self, broken):
        super().__init__()
        self.net = Listed(broken)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        hidden = [p for layer in self.net.layers for p in layer.parameters()]
        return optim.Adam([*self.net.head.parameters(), *hidden], lr=1e-3)


def test_optimized_and_not_saved():
    broken = fit(lambda: OwnOptimizer(True), digits())
    assert "unregistered-module" in names(broken)
    [finding] = [f for f in broken.findings if f.name == "unregistered-module"]
    assert finding.severity is Severity.WARNING
    assert "not saved in checkpoints" in finding.message
    assert alarms(fit(lambda: OwnOptimizer(False), digits())) == []
