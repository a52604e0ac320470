"""Gradients that grow over the layers or the steps, and the same programs mended."""

from functools import partial

import pytest
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, regression, sequences


def chaotic(broken):
    layers = []
    for _ in range(12):
        layers += [nn.Linear(64, 64), nn.Tanh()]
        nn.init.normal_(layers[-2].weight, std=0.6 if broken else 0.125)
    return Program(nn.Sequential(*layers, nn.Linear(64, 10)))


class Rectified(nn.Module):
    """A ReLU RNN over a long sequence; recurrent weights above 1 blow up."""

    def __init__(self, broken):
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.rnn = nn.RNN(16, 32, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(32, 2)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=1.0 if not broken else 1.05)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[1][-1])


def recurrent(broken):
    rate = 1.0 if broken else 1e-2
    return Program(Rectified(broken), optimizer=partial(optim.SGD, lr=rate, momentum=0.9))


def steps(broken):
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    return Program(net, F.mse_loss, partial(optim.SGD, lr=0.4 if broken else 0.05, momentum=0.9))


class Power(nn.Module):
    def forward(self, x):
        return x + 0.5 * x**2


def polynomial(broken):
    net = nn.Sequential(nn.Linear(8, 16), Power(), nn.Linear(16, 16), Power(), nn.Linear(16, 1))
    return Program(net, F.mse_loss, partial(optim.SGD, lr=0.1 if broken else 1e-3))


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(chaotic, digits(), id="tanh mlp, large weights"),
        pytest.param(recurrent, sequences(length=48), id="relu rnn"),
        pytest.param(steps, regression(), id="mlp, steps too large"),
        pytest.param(polynomial, regression(), id="polynomial"),
    ],
)
def test_pair(program, data):
    broken = fit(lambda: program(True), data, epochs=4)
    assert "exploding-gradient" in names(broken)
    assert alarms(fit(lambda: program(False), data, epochs=4)) == []
