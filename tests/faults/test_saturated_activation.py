"""Squashing functions driven to their bounds."""

import pytest
import torch
from torch import nn

from tests.runs import Program, alarms, digits, fit, names, places, sequences


class Mlp(nn.Module):
    """Tanh or sigmoid, functional, on raw or scaled pixels."""

    def __init__(self, function):
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.function = function

    def forward(self, x):
        return self.out(self.function(self.fc2(self.function(self.fc1(x)))))


class Cnn(nn.Module):
    """LeNet with weights from a normal distribution."""

    def __init__(self, std):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.Tanh(),
        )
        self.head = nn.Linear(16 * 16, 10)
        if std:
            nn.init.normal_(self.features[3].weight, std=std)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Recurrent(nn.Module):
    """A handwritten recurrence whose weights are too large to forget or to learn."""

    def __init__(self, std):
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.w = nn.Parameter(torch.randn(32, 32) * std)
        self.u = nn.Parameter(torch.randn(32, 32) * std)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        h = torch.zeros(len(ids), 32)
        for step in self.embedding(ids).unbind(1)[:6]:
            h = torch.tanh(step @ self.w + h @ self.u)
        return self.head(h)


@pytest.mark.parametrize(
    ("bug", "fix", "where"),
    [
        pytest.param(
            lambda: (Program(Mlp(torch.tanh)), digits(scale=255.0)),
            lambda: (Program(Mlp(torch.tanh)), digits()),
            "net.fc1 > tanh",
            id="tanh on raw pixels",
        ),
        pytest.param(
            lambda: (Program(Mlp(torch.sigmoid)), digits(scale=255.0)),
            lambda: (Program(Mlp(torch.sigmoid)), digits()),
            "net.fc1 > sigmoid",
            id="sigmoid on raw pixels",
        ),
        pytest.param(
            lambda: (Program(Cnn(30.0)), digits(flat=False)),
            lambda: (Program(Cnn(0.0)), digits(flat=False)),
            "net.features.4",
            id="large weights in a convolutional net",
        ),
        pytest.param(
            lambda: (Program(Recurrent(10.0)), sequences()),
            lambda: (Program(Recurrent(0.15)), sequences()),
            "net > tanh",
            id="handwritten recurrence",
        ),
    ],
)
def test_pair(bug, fix, where):
    found, fixed = _run(*bug()), _run(*fix())
    assert "saturated-activation" in names(found)
    assert where in places(found, "saturated-activation")
    assert alarms(fixed) == []


def _run(module, data):
    return fit(lambda: module, data)
