"""Dropout that feeds a batch norm, as a module, as a function and through a residual sum."""

import pytest
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places


def dense(order):
    drop, norm = nn.Dropout(0.5), nn.BatchNorm1d(64)
    middle = {
        "bug": (nn.ReLU(), drop, norm),
        "fix": (norm, nn.ReLU(), drop),
    }[order]
    return nn.Sequential(nn.Linear(64, 64), *middle, nn.Linear(64, 10))


class Cnn(nn.Module):
    """Functional dropout, activation and pooling between the two."""

    def __init__(self, order):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 16, 10)
        self.order = order

    def forward(self, x):
        x = self.conv1(x)
        if self.order == "bug":
            x = F.dropout2d(x, 0.3, self.training)
            x = self.bn(F.max_pool2d(F.relu(x), 2))
        else:
            x = F.max_pool2d(F.relu(self.bn(x)), 2)
            x = F.dropout2d(x, 0.3, self.training)
        return self.fc(x.flatten(1))


class Residual(nn.Module):
    """A block whose branch ends in a dropout; the norm after the sum sees it."""

    def __init__(self, order):
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.branch = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 10)
        self.order = order

    def forward(self, x):
        x = self.stem(x)
        if self.order == "bug":
            return self.head(self.norm(self.dropout(x) + self.branch(x)))
        return self.head(self.dropout(self.norm(x + self.branch(x))))


@pytest.mark.parametrize(
    ("net", "data", "where"),
    [
        pytest.param(dense, digits, "net.3", id="dense"),
        pytest.param(Cnn, lambda: digits(flat=False), "net.bn", id="functional, convolutions"),
        pytest.param(Residual, digits, "net.norm", id="residual sum"),
    ],
)
def test_pair(net, data, where):
    found = fit(lambda: Program(net("bug")), data())
    fixed = fit(lambda: Program(net("fix")), data())
    assert "dropout-before-batch-norm" in names(found)
    assert places(found, "dropout-before-batch-norm") == {where}
    assert alarms(fixed) == []
