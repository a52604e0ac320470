"""Initial weights of a wrong size."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places


class Standard(nn.Module):
    """Weights from randn, with or without 1/sqrt(fan_in)."""

    def __init__(self, scaled):
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 10)
        for layer in (self.fc1, self.fc2):
            factor = math.sqrt(2 / layer.in_features) if scaled else 1.0
            layer.weight.data = torch.randn(layer.weight.shape) * factor

    def forward(self, x):
        return self.out(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Filters(nn.Module):
    """Convolutions and a residual sum; the init hook uses the standard deviation 1."""

    def __init__(self, std):
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.a = nn.Conv2d(32, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 32, 3, padding=1)
        self.fc = nn.Linear(32, 10)
        for layer in (self.a, self.b):
            if std:
                nn.init.normal_(layer.weight, 0.0, std)
            else:
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.b(F.gelu(self.a(x)))
        return self.fc(F.relu(x).mean((2, 3)))


class Tiny(nn.Module):
    """Weights of 1e-6, as some older tutorials start."""

    def __init__(self, std):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        if std:
            for layer in (self.fc1, self.fc2):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class Forgotten(nn.Module):
    """A parameter made with torch.empty and never filled; the memory is simulated."""

    def __init__(self, filled):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(64, 64))
        self.head = nn.Linear(64, 10)
        with torch.no_grad():
            self.weight.copy_(torch.randn(64, 64) * 0.1)
            if not filled:
                self.weight[3, 5] = 4.5e27

    def forward(self, x):
        return self.head(torch.tanh(x @ self.weight))


@pytest.mark.parametrize(
    ("bug", "fix", "data", "where"),
    [
        pytest.param(
            lambda: Standard(False),
            lambda: Standard(True),
            digits,
            {"net.fc2.weight"},
            id="randn without a factor",
        ),
        pytest.param(
            lambda: Filters(1.0),
            lambda: Filters(0.0),
            lambda: digits(flat=False, n=512),
            {"net.a.weight", "net.b.weight"},
            id="convolutions of std 1",
        ),
        pytest.param(
            lambda: Tiny(1e-6),
            lambda: Tiny(0.0),
            digits,
            {"net.fc1.weight", "net.fc2.weight"},
            id="tiny weights",
        ),
        pytest.param(
            lambda: Forgotten(False),
            lambda: Forgotten(True),
            digits,
            {"net.weight"},
            id="memory that was never filled",
        ),
    ],
)
def test_pair(bug, fix, data, where):
    found, fixed = fit(lambda: Program(bug()), data()), fit(lambda: Program(fix()), data())
    assert "weight-init-scale" in names(found)
    assert places(found, "weight-init-scale") >= where
    assert alarms(fixed) == []
