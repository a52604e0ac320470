"""Biases that a norm subtracts again: said as information, and not where they do something."""

import pytest
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, places, sequences


def dense(bias):
    return nn.Sequential(
        nn.Linear(64, 64, bias=bias), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )


class Cnn(nn.Module):
    """The norms are registered elsewhere than they run; one is over each image."""

    def __init__(self, bias):
        super().__init__()
        self.bn, self.inorm = nn.BatchNorm2d(8), nn.GroupNorm(16, 16)
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=bias)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.bn(self.conv1(x)))
        return self.head(F.relu(self.inorm(self.conv2(x))).mean((2, 3)))


class Steps(nn.Module):
    """A layer over (N, T, C), and a norm over (N, C, T)."""

    def __init__(self, bias):
        super().__init__()
        self.table, self.inner = nn.Embedding(20, 32), nn.Linear(32, 32, bias=bias)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 2)

    def forward(self, ids):
        x = self.inner(self.table(ids)).transpose(1, 2)
        return self.head(F.relu(self.norm(x)).mean(2))


@pytest.mark.parametrize(
    ("net", "data", "where"),
    [
        pytest.param(dense, digits, {"net.0"}, id="mlp"),
        pytest.param(Cnn, lambda: digits(flat=False, n=512), {"net.conv1", "net.conv2"}, id="cnn"),
        pytest.param(Steps, sequences, {"net.inner"}, id="transposed"),
    ],
)
def test_pair(net, data, where):
    broken = fit(lambda: Program(net(True)), data(), epochs=1)
    assert places(broken, "bias-before-norm") == where
    assert alarms(broken) == []
    fixed = fit(lambda: Program(net(False)), data(), epochs=1)
    assert [f.name for f in fixed.findings] == []


class Shared(nn.Module):
    """The bias also goes round the norm."""

    def __init__(self):
        super().__init__()
        self.fc1, self.bn, self.fc2 = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(F.relu(x + self.bn(x)))


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(
            lambda: nn.Sequential(
                nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10)
            ),
            id="layer norm",
        ),
        pytest.param(
            lambda: nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10)
            ),
            id="activation between",
        ),
        pytest.param(
            lambda: nn.Sequential(
                nn.Linear(64, 64), nn.GroupNorm(8, 64), nn.ReLU(), nn.Linear(64, 10)
            ),
            id="groups",
        ),
        pytest.param(Shared, id="used twice"),
    ],
)
def test_silent(net):
    assert places(fit(lambda: Program(net()), digits(), epochs=1), "bias-before-norm") == set()
