"""Gradients that grow over the layers or the steps, and the same programs mended."""

from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def normal(broken):
    """Standard normal weights, in a deep tanh network."""
    layers = []
    for _ in range(20):
        layers += [nn.Linear(64, 64), nn.Tanh()]
        nn.init.normal_(layers[-2].weight, std=1.0 if broken else 0.125)
    return Program(nn.Sequential(*layers, nn.Linear(64, 10)))


def filters(broken):
    """The same with convolutions; mended by batch norm, which takes the scale out."""
    layers, width = [], 1
    for _ in range(14):
        layers += [nn.Conv2d(width, 8, 3, padding=1)]
        layers += [nn.Tanh()] if broken else [nn.BatchNorm2d(8), nn.Tanh()]
        nn.init.normal_(layers[-2].weight if broken else layers[-3].weight, std=1.0)
        width = 8
    return Program(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10)))


class Recurrent(nn.Module):
    def __init__(self, broken):
        super().__init__()
        self.rnn, self.head = nn.RNN(2, 64, batch_first=True), nn.Linear(64, 1)
        if broken:
            nn.init.normal_(self.rnn.weight_hh_l0, std=0.5)
        else:
            nn.init.orthogonal_(self.rnn.weight_hh_l0)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def recurrent(broken):
    return Program(Recurrent(broken), F.mse_loss, partial(optim.SGD, lr=0.1 if broken else 0.01))


def linear(broken):
    """A learning rate above what inputs of this size allow: each step overshoots further."""
    return Program(nn.Linear(8, 1), F.mse_loss, partial(optim.SGD, lr=1.5 if broken else 0.05))


def adding(n=512, length=60):
    """Sum of the two marked numbers of a sequence."""
    generator = torch.Generator().manual_seed(0)
    values, marks = torch.rand(n, length, 1, generator=generator), torch.zeros(n, length, 1)
    marks.scatter_(1, torch.randint(0, length, (n, 2, 1), generator=generator), 1.0)
    data = TensorDataset(torch.cat([values, marks], 2), (values * marks).sum(1))
    return DataLoader(data, batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(normal, digits(), "net.0.weight", id="tanh mlp, standard normal weights"),
        pytest.param(filters, digits(flat=False), "Adam", id="tanh cnn", marks=pytest.mark.slow),
        pytest.param(recurrent, adding(), "SGD", id="rnn, large recurrent weights"),
        pytest.param(linear, regression(), "SGD", id="linear, steps too large"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data, epochs=4)
    assert "exploding-gradient" in names(broken)
    assert where in places(broken, "exploding-gradient")
    assert alarms(fit(lambda: program(False), data, epochs=4)) == []


class Layer(nn.Module):
    """A rectified recurrent layer over tokens; its weights stretch every state, or keep it."""

    def __init__(self, gain):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(32, 2)
        self.rnn = nn.RNN(16, 32, batch_first=True, nonlinearity="relu")
        with torch.no_grad():
            nn.init.orthogonal_(self.rnn.weight_hh_l0).mul_(gain)

    def forward(self, ids):
        return self.head(self.rnn(0.1 * self.table(ids))[0][:, -1])


class Cell(nn.Module):
    """The same as a loop over a cell."""

    def __init__(self, gain):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(32, 2)
        self.cell = nn.RNNCell(16, 32, nonlinearity="relu")
        with torch.no_grad():
            nn.init.orthogonal_(self.cell.weight_hh).mul_(gain)

    def forward(self, ids):
        h = torch.zeros(len(ids), 32)
        for x in self.table(ids).unbind(1):
            h = self.cell(0.1 * x, h)
        return self.head(h)


@pytest.mark.parametrize(("net", "where"), [(Layer, "net.rnn"), (Cell, "net.cell")])
def test_over_time(net, where):
    data = sequences(n=256, length=48)
    broken = fit(lambda: Program(net(2.2)), data)
    (finding,) = [f for f in broken.findings if f.name == "exploding-gradient"]
    assert f"time steps of {where}" in finding.message
    assert alarms(fit(lambda: Program(net(0.8)), data)) == []
