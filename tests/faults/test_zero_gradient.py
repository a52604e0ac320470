"""Gradients that something multiplies by zero, and the same programs mended."""

from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


class Lora(nn.Module):
    def __init__(self, base, *, both):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, base.in_features) / 8)
        self.b = nn.Parameter(torch.zeros(base.out_features, 4))
        if both:
            nn.init.zeros_(self.a)

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


def lora(broken):
    head = nn.Linear(64, 10)
    return Program(nn.Sequential(Lora(nn.Linear(64, 64), both=broken), nn.ReLU(), head))


class Even(nn.Module):
    """One output, squashed by softmax (always 1) or sigmoid."""

    def __init__(self, broken):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 1)
        )
        self.out = nn.Softmax(dim=1) if broken else nn.Sigmoid()

    def forward(self, x):
        return self.out(self.body(x))


def even(prediction, target):
    return F.binary_cross_entropy(prediction, (target % 2 == 0).float()[:, None])


def clamped(prediction, target):
    return F.cross_entropy(prediction, target).clamp(max=1.0)


def clip(broken):
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Program(net, clamped if broken else F.cross_entropy)


class Bidirectional(nn.Module):
    """The last time step holds only one step of the reverse direction."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.table = nn.Embedding(20, 16)
        self.rnn = nn.GRU(16, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 2)

    def forward(self, ids):
        out, h = self.rnn(self.table(ids))
        return self.head(out[:, -1] if self.broken else torch.cat([h[0], h[1]], 1))


class Block(nn.Module):
    """Gate and last layer of the branch both start at zero."""

    def __init__(self, broken):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.branch = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        if broken:
            nn.init.zeros_(self.branch[2].weight)
            nn.init.zeros_(self.branch[2].bias)

    def forward(self, x):
        return x + self.gate * self.branch(x)


def residual(broken):
    return Program(
        nn.Sequential(nn.Linear(64, 32), Block(broken), Block(broken), nn.Linear(32, 10))
    )


class Pooling(nn.Module):
    """Attention over the sequence; softmax runs over the axis that has one entry."""

    def __init__(self, broken):
        super().__init__()
        self.axis = 2 if broken else 1
        self.table, self.score = nn.Embedding(20, 32), nn.Linear(32, 1)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        x = self.table(ids)
        return self.head((x * self.score(x).softmax(self.axis)).sum(1) / ids.shape[1] ** 0.5)


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(lora, digits(), ["net.0.a", "net.0.b"], id="LoRA, both factors zero"),
        pytest.param(
            lambda broken: Program(Even(broken), even),
            digits(flat=False),
            ["net.body.0.weight", "net.body.3.weight"],
            id="softmax over one unit",
        ),
        pytest.param(clip, digits(), ["net.0.weight", "net.2.bias"], id="clamped loss"),
        pytest.param(
            lambda broken: Program(Bidirectional(broken)),
            sequences(),
            ["net.rnn.weight_hh_l0_reverse"],
            id="last step of a reverse GRU",
        ),
        pytest.param(
            residual, digits(), ["net.1.gate", "net.2.branch.0.weight"], id="two zeros in a row"
        ),
        pytest.param(
            lambda broken: Program(Pooling(broken), optimizer=partial(optim.Adam, lr=3e-3)),
            sequences(),
            ["net.score.weight"],
            id="softmax over the wrong axis",
        ),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "zero-gradient" in names(broken)
    assert set(where) <= places(broken, "zero-gradient")
    assert alarms(fit(lambda: program(False), data)) == []
