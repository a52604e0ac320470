"""Layers whose output is the same for every sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


class Pool(nn.Module):
    """Mean over an axis, as a module."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        if self.dim == 0:
            return x.mean(0, keepdim=True).expand_as(x)
        return x.mean(self.dim)


class Rows(nn.Module):
    """The rows of an image as a sequence; the mean is meant over rows."""

    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.pool = Pool(dim) if dim == 0 else nn.Identity()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.pool(F.gelu(self.fc(x))))


class AttentionPool(nn.Module):
    """Softmax over the axis of length one: all weights are 1, and the score says nothing."""

    def __init__(self, dim):
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.score = nn.Linear(32, 1)
        self.softmax = nn.Softmax(dim=dim)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        x = self.embedding(ids)
        return self.head((x * self.softmax(self.score(x))).sum(1))


class Deep(nn.Module):
    """Thirty sigmoid layers, or thirty residual ones: the last ones see no sample any more."""

    def __init__(self, residual):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(30))
        self.head = nn.Linear(64, 10)
        self.residual = residual

    def forward(self, x):
        for layer in self.layers:
            x = x + 0.1 * torch.tanh(layer(x)) if self.residual else torch.sigmoid(layer(x))
        return self.head(x)


class Norm(nn.Module):
    """A norm over a single channel gives nothing but its bias."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 8)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.norm(self.conv(x).flatten(1)))


@pytest.mark.parametrize(
    ("bug", "fix", "data", "where"),
    [
        pytest.param(
            lambda: Rows(0), lambda: Rows(1), digits, "net.pool", id="mean over the batch"
        ),
        pytest.param(
            lambda: AttentionPool(-1),
            lambda: AttentionPool(1),
            sequences,
            "net.softmax",
            id="softmax over one score",
        ),
        pytest.param(
            lambda: Deep(False),
            lambda: Deep(True),
            digits,
            "net.layers",
            id="deep sigmoid net",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: Norm(1),
            lambda: Norm(32),
            lambda: digits(flat=False),
            "net.norm",
            id="norm over one feature",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pair(bug, fix, data, where):
    found, fixed = fit(lambda: Program(bug()), data()), fit(lambda: Program(fix()), data())
    assert "activation-collapse" in names(found)
    assert any(place.startswith(where) for place in places(found, "activation-collapse"))
    assert alarms(fixed) == []


class Tokens(nn.Module):
    """Attention blocks with or without residual connections; by torch, or by hand."""

    def __init__(self, residual, handwritten):
        super().__init__()
        self.table, self.places = nn.Embedding(20, 32), nn.Embedding(16, 32)
        kind = Mixing if handwritten else Attention
        self.blocks = nn.ModuleList(kind(32) for _ in range(10))
        self.head = nn.Linear(32, 2)
        self.residual = residual

    def forward(self, ids):
        x = self.table(ids) + self.places.weight
        for block in self.blocks:
            x = x + block(x) if self.residual else block(x)
        return self.head(x[:, 0])


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x):
        x = self.norm(x)
        return self.attention(x, x, x, need_weights=False)[0]


class Mixing(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        x = self.norm(x)
        scores = self.q(x) @ self.k(x).transpose(1, 2) / x.shape[-1] ** 0.5
        return self.out(scores.softmax(-1) @ self.v(x))


@pytest.mark.parametrize("handwritten", [pytest.param(False, marks=pytest.mark.slow), True])
def test_attention_without_residual_connections(handwritten):
    found = fit(lambda: Program(Tokens(False, handwritten)), sequences())
    assert "activation-collapse" in names(found)
    assert any("over positions" in p for p in places(found, "activation-collapse"))
    fixed = fit(lambda: Program(Tokens(True, handwritten)), sequences())
    assert alarms(fixed) == []
