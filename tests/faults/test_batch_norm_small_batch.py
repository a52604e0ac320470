"""Batch norms over a handful of values, and the same networks with enough of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def dense(norm):
    return nn.Sequential(nn.Linear(64, 64), norm(64), nn.ReLU(), nn.Linear(64, 10))


class Pooled(nn.Module):
    """A CNN whose last batch norm comes after global pooling."""

    def __init__(self, norm):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.bn2, self.head = norm(8), nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x))).amax((2, 3))
        return self.head(self.bn2(x))


class Handwritten(Program):
    """Weights and functions, and a step that optimizes by itself."""

    def __init__(self, bug):
        super().__init__(nn.Identity(), F.mse_loss)
        self.automatic_optimization = False
        self.bug = bug
        self.w1 = nn.Parameter(torch.randn(8, 32) * 0.3)
        self.w2 = nn.Parameter(torch.randn(32, 1) * 0.2)
        self.gain, self.bias = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))

    def forward(self, x):
        h = x @ self.w1
        if self.bug:
            h = F.batch_norm(h, None, None, self.gain, self.bias, training=True)
        else:
            h = F.layer_norm(h, (32,), self.gain, self.bias)
        return torch.tanh(h) @ self.w2

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()


class Recurrent(nn.Module):
    """A batch norm on the last state of an LSTM, or a layer norm."""

    def __init__(self, norm):
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.norm, self.head = norm(32), nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.norm(self.lstm(self.table(ids))[0][:, -1]))


def small(data, size):
    return torch.utils.data.DataLoader(data.dataset, batch_size=size, shuffle=True)


@pytest.mark.parametrize(
    ("bug", "data", "fix", "better", "where", "settings"),
    [
        pytest.param(
            lambda: Program(dense(nn.BatchNorm1d)),
            lambda: digits(n=80, batch=2),
            lambda: Program(dense(nn.BatchNorm1d)),
            lambda: digits(n=640, batch=32),
            "net.1",
            {},
            id="mlp, batches of two",
        ),
        pytest.param(
            lambda: Program(Pooled(nn.BatchNorm1d)),
            lambda: digits(flat=False, n=160, batch=4),
            lambda: Program(Pooled(lambda width: nn.GroupNorm(2, width))),
            lambda: digits(flat=False, n=160, batch=4),
            "net.bn2",
            {"accumulate_grad_batches": 4},
            id="cnn, accumulated",
        ),
        pytest.param(
            lambda: Handwritten(True),
            lambda: regression(n=120, batch=3),
            lambda: Handwritten(False),
            lambda: regression(n=120, batch=3),
            "model",
            {},
            id="handwritten, manual",
        ),
        pytest.param(
            lambda: Program(Recurrent(nn.BatchNorm1d)),
            lambda: small(sequences(n=160), 4),
            lambda: Program(Recurrent(nn.LayerNorm)),
            lambda: small(sequences(n=160), 4),
            "net.norm",
            {},
            id="lstm",
        ),
    ],
)
def test_pair(bug, data, fix, better, where, settings):
    broken = fit(bug, data(), **settings)
    assert "batch-norm-small-batch" in names(broken)
    assert places(broken, "batch-norm-small-batch") == {where}
    fixed = fit(fix, better(), **settings)
    assert alarms(fixed) == []
