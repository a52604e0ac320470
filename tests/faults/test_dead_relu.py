"""Rectifiers that were killed: by a bias, by a step, by raw inputs, at the output."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Mlp(nn.Module):
    """Functional style; the biases start far below zero."""

    def __init__(self, bias):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        nn.init.constant_(self.fc2.bias, bias)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Cnn(nn.Module):
    """One ReLU module for all layers, in place."""

    def __init__(self, bias):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16 * 64, 10)
        nn.init.constant_(self.conv2.bias, bias)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        return self.fc(self.relu(self.conv2(x)).flatten(1))


def thrown(lr):
    """Steps that are much too large kill units within the first epoch."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    return Program(
        nn.Sequential(*net, nn.Linear(64, 10)), optimizer=partial(torch.optim.SGD, lr=lr)
    )


class Output(nn.Module):
    """A rectifier at the output of a regression whose targets are below zero too."""

    def __init__(self, rectified):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 32), nn.Linear(32, 1)
        self.rectified = rectified
        if not rectified:
            nn.init.constant_(self.fc2.bias, -5.0)

    def forward(self, x):
        out = self.fc2(torch.tanh(self.fc1(x)))
        return F.relu(out) if self.rectified else out


def negative(prediction, target):
    """A target that is always below zero, such as a log-probability."""
    return ((prediction - (target - 5)) ** 2).mean()


class Transformer(nn.Module):
    """The feed-forward part of a block, with a norm whose bias is far below zero before it."""

    def __init__(self, bias):
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 2)
        nn.init.constant_(self.up.bias, bias)

    def forward(self, ids):
        x = self.embedding(ids)
        x = x + self.attention(x, x, x)[0]
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("bug", "fix", "data", "where"),
    [
        pytest.param(
            lambda: Program(Mlp(-5.0)),
            lambda: Program(Mlp(0.0)),
            digits,
            "net.fc2 > relu",
            id="negative bias, functional",
        ),
        pytest.param(
            lambda: Program(Cnn(-10.0)),
            lambda: Program(Cnn(0.0)),
            lambda: digits(flat=False, n=512),
            "net.conv2 > net.relu",
            id="negative bias, shared module",
        ),
        pytest.param(
            lambda: thrown(20.0), lambda: thrown(0.1), digits, "net.3", id="steps too large"
        ),
        pytest.param(
            lambda: Program(Transformer(-8.0)),
            lambda: Program(Transformer(0.0)),
            sequences,
            "net.up > relu",
            id="feed-forward part of a transformer",
        ),
        pytest.param(
            lambda: Program(Output(True), negative, partial(torch.optim.Adam, lr=1e-2)),
            lambda: Program(Output(False), negative, partial(torch.optim.Adam, lr=1e-2)),
            lambda: regression(n=2048),
            "net.fc2 > relu",
            id="rectified output",
        ),
        pytest.param(
            lambda: Program(Mlp(-5.0)),
            lambda: Program(Mlp(0.0)),
            lambda: digits(batch=8, n=512),
            "net.fc2 > relu",
            id="small batches",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pair(bug, fix, data, where):
    found, fixed = fit(bug, data(), epochs=8), fit(fix, data(), epochs=8)
    assert "dead-relu" in names(found)
    assert where in places(found, "dead-relu")
    assert alarms(fixed) == []
