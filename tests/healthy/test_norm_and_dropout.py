"""Healthy orders of dropout and batch norm."""

import pytest
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit


class WideBlock(nn.Module):
    """Of a wide residual net: norm, ReLU, convolution, dropout, norm, ReLU, convolution."""

    def __init__(self, width, p=0.3):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(p)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(self.dropout(F.relu(self.bn2(out))))


class RegisteredFirst(nn.Module):
    """The dropout is registered before the norm and runs after it."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.bn = nn.BatchNorm1d(64)
        self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc2(self.dropout(F.relu(self.bn(self.fc1(x)))))


class McDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.bn, self.fc2 = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.dropout(F.relu(self.bn(self.fc1(x))), 0.5, training=True)
        return self.fc2(x)


class FrozenNorm(nn.Module):
    """The norm stays in evaluation, so it learns no variance from the dropout before it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.drop = nn.Linear(64, 64), nn.Dropout(0.5)
        self.bn, self.fc2 = nn.BatchNorm1d(64).eval(), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc2(F.relu(self.bn(self.drop(self.fc1(x)))))


class Averaged(nn.Module):
    """Dropout on an image, averaged away before the norm of the head."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(1, 32, 3, padding=1), nn.Dropout(0.1)
        self.bn, self.head = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.bn(self.drop(F.relu(self.conv(x))).mean((2, 3))))


def sequential(*middle):
    return nn.Sequential(nn.Linear(64, 64), *middle, nn.Linear(64, 10))


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(
            lambda: sequential(nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5)), id="norm first"
        ),
        pytest.param(
            lambda: sequential(
                nn.BatchNorm1d(64),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Linear(64, 64),
                nn.BatchNorm1d(64),
                nn.ReLU(),
                nn.Dropout(0.3),
            ),
            id="blocks of linear, norm, ReLU, dropout",
        ),
        pytest.param(
            lambda: sequential(nn.Dropout(0.5), nn.ReLU(), nn.LayerNorm(64)), id="layer norm"
        ),
        pytest.param(lambda: sequential(nn.Dropout(0.0), nn.BatchNorm1d(64)), id="dropout of 0"),
        pytest.param(lambda: sequential(nn.Dropout(0.02), nn.BatchNorm1d(64)), id="dropout of 2 %"),
        pytest.param(RegisteredFirst, id="registered first, executed second"),
        pytest.param(McDropout, id="Monte-Carlo dropout"),
        pytest.param(FrozenNorm, id="norm in evaluation"),
    ],
)
def test_flat(net):
    assert alarms(fit(lambda: Program(net()), digits())) == []


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(
            lambda: nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Dropout2d(0.2),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(16, 10),
            ),
            id="convolutional blocks",
        ),
        pytest.param(
            lambda: nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                WideBlock(16),
                WideBlock(16),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(1024, 10),
            ),
            id="wide residual net",
        ),
        pytest.param(Averaged, id="averaged before the norm"),
    ],
)
def test_images(net):
    assert alarms(fit(lambda: Program(net()), digits(flat=False, n=512))) == []


def test_input_dropout():
    """A little noise on the input pixels, then a usual network."""
    net = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )
    assert alarms(fit(lambda: Program(net), digits())) == []
