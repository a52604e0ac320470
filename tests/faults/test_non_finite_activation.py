"""Modules that make the first NaN or infinity."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


class LogSpectrum(nn.Module):
    """The logarithm of features that are zero here and there."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return torch.log(x + self.eps)


class Standardise(nn.Module):
    """Division by the standard deviation of each image column; empty columns have none."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        x = x.view(-1, 8, 8)
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + self.eps)
        return x.flatten(1)


class Attention(nn.Module):
    """All tokens of some sequences are padding, so their row of the softmax is empty."""

    def __init__(self, keep_first):
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.qkv = nn.Linear(32, 96)
        self.softmax = nn.Softmax(dim=-1)
        self.head = nn.Linear(32, 2)
        self.keep_first = keep_first

    def forward(self, ids):
        q, k, v = self.qkv(self.embedding(ids)).chunk(3, -1)
        padding = (ids > 2) | (ids[:, :1] > 10)
        if self.keep_first:
            padding[:, 0] = False
        scores = (q @ k.transpose(1, 2) / 32**0.5).masked_fill(padding[:, None], float("-inf"))
        return self.head((self.softmax(scores) @ v).mean(1))


class Variational(Program):
    """A variance as exp of an unbounded output, in a module."""

    class Sample(nn.Module):
        def __init__(self, bounded):
            super().__init__()
            self.bounded = bounded

        def forward(self, mean, log_variance):
            if self.bounded:
                log_variance = log_variance.clamp(-10, 10) / 100
            return mean + torch.randn_like(mean) * log_variance.exp()

    def __init__(self, bounded):
        super().__init__(nn.Linear(64, 64))
        self.sample = self.Sample(bounded)
        self.decoder = nn.Linear(32, 64)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, log_variance = self.net(x).chunk(2, 1)
        z = self.sample(mean, 100 * log_variance)
        return F.mse_loss(2 * torch.sigmoid(self.decoder(z)), x) + F.mse_loss(z, mean) / 100


@pytest.mark.parametrize(
    ("bug", "fix", "data", "where"),
    [
        pytest.param(
            lambda: Program(nn.Sequential(LogSpectrum(0.0), nn.Linear(64, 10))),
            lambda: Program(nn.Sequential(LogSpectrum(0.1), nn.Linear(64, 10))),
            digits,
            "net.0",
            id="log of zero",
        ),
        pytest.param(
            lambda: Program(
                nn.Sequential(Standardise(0.0), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            ),
            lambda: Program(
                nn.Sequential(Standardise(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            ),
            digits,
            "net.0",
            id="division by a spread of zero",
        ),
        pytest.param(
            lambda: Program(Attention(False)),
            lambda: Program(Attention(True)),
            sequences,
            "net.softmax",
            id="softmax over nothing",
        ),
        pytest.param(
            lambda: Variational(False),
            lambda: Variational(True),
            lambda: digits(scale=2.0),
            "sample",
            id="unbounded variance",
        ),
    ],
)
def test_pair(bug, fix, data, where):
    found, fixed = fit(bug, data()), fit(fix, data())
    assert "non-finite-activation" in names(found)
    assert places(found, "non-finite-activation") == {where}
    assert alarms(fixed) == []
