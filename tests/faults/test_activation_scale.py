"""Activations that grow or shrink from layer to layer."""

import itertools
from functools import partial

import pytest
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places

ADAM, SGD = partial(optim.Adam, lr=1e-3), partial(optim.SGD, lr=1e-3)


class Plain(nn.Module):
    """Ten layers; each keeps the size of its input, or does not."""

    def __init__(self, gain, depth=10):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.head = nn.Linear(64, 10)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=gain * (2 / 64) ** 0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


class Residual(nn.Module):
    """Convolutional blocks without a norm; each sum makes the stream larger."""

    def __init__(self, scale):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(12))
        self.head = nn.Linear(16, 10)
        self.scale = scale
        for block in self.blocks:
            nn.init.kaiming_normal_(block.weight)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + self.scale * block(F.relu(x))
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """An autoencoder with the standard deviation 0.01 of older papers in every layer."""

    def __init__(self, std):
        super().__init__()
        widths = [64, 48, 32, 16, 32, 48, 64]
        self.net = nn.Sequential()
        for a, b in itertools.pairwise(widths):
            layer = nn.Linear(a, b)
            if std:
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
            self.net.extend([layer, nn.Tanh()])
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.net(x))


@pytest.mark.parametrize(
    ("bug", "fix", "data", "where", "optimizer"),
    [
        pytest.param(
            lambda: Plain(3.0), lambda: Plain(1.0), digits, "net.layers.9", ADAM, id="growing"
        ),
        pytest.param(
            lambda: Plain(0.2), lambda: Plain(1.0), digits, "net.layers.9", SGD, id="shrinking"
        ),
        pytest.param(
            lambda: Residual(3.0),
            lambda: Residual(0.1),
            lambda: digits(flat=False, n=512),
            "net.blocks.11",
            ADAM,
            id="residual sums",
        ),
        pytest.param(
            lambda: Encoder(0.01),
            lambda: Encoder(0.0),
            digits,
            "net.net.10",
            SGD,
            id="small weights in an autoencoder",
        ),
    ],
)
def test_pair(bug, fix, data, where, optimizer):
    found = fit(lambda: Program(bug(), optimizer=optimizer), data())
    fixed = fit(lambda: Program(fix(), optimizer=optimizer), data())
    assert "activation-scale" in names(found)
    assert places(found, "activation-scale") == {where}
    assert alarms(fixed) == []
