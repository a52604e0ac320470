"""Constant initial weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def constant(module):
    """What people pass to ``apply``."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.constant_(module.weight, 0.01)
        nn.init.constant_(module.bias, 0.0)


def xavier(module):
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        return self.fc(torch.relu(self.conv2(x)).flatten(1))


class Raw(nn.Module):
    """Bare parameters, forgotten at zeros."""

    def __init__(self, random):
        super().__init__()
        make = torch.randn if random else torch.zeros
        self.w1 = nn.Parameter(make(32, 64) * 0.2)
        self.w2 = nn.Parameter(make(10, 32) * 0.2)

    def forward(self, x):
        return torch.tanh(x @ self.w1.T) @ self.w2.T


class Recurrent(nn.Module):
    """An LSTM whose weights were all set to one number."""

    def __init__(self, init):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.rnn = nn.LSTM(16, 24, batch_first=True)
        self.head = nn.Linear(24, 2)
        if init is not None:
            for parameter in (*self.rnn.parameters(), *self.head.parameters()):
                nn.init.constant_(parameter, init)

    def forward(self, ids):
        hidden, _ = self.rnn(self.embedding(ids))
        return self.head(hidden[:, -1])


@pytest.mark.parametrize(
    ("bug", "fix", "data", "where"),
    [
        pytest.param(
            lambda: Mlp().apply(constant),
            lambda: Mlp().apply(xavier),
            digits,
            {"net.fc1.weight", "net.fc2.weight"},
            id="dense",
        ),
        pytest.param(
            lambda: Cnn().apply(constant),
            lambda: Cnn().apply(xavier),
            lambda: digits(flat=False),
            {"net.conv1.weight", "net.conv2.weight"},
            id="convolutions",
        ),
        pytest.param(
            lambda: Raw(False), lambda: Raw(True), digits, {"net.w1", "net.w2"}, id="bare zeros"
        ),
        pytest.param(
            lambda: Recurrent(0.1),
            lambda: Recurrent(None),
            sequences,
            {"net.rnn.weight_ih_l0", "net.rnn.weight_hh_l0"},
            id="recurrent",
        ),
    ],
)
def test_pair(bug, fix, data, where):
    found, fixed = fit(lambda: Program(bug()), data()), fit(lambda: Program(fix()), data())
    assert "symmetric-init" in names(found)
    assert places(found, "symmetric-init") == where
    assert alarms(fixed) == []
