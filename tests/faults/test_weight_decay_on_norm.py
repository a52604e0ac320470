"""Norms in a group with weight decay, and groups split by dimension: never an alarm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, sequences


class Rms(nn.Module):
    """A norm that is written by hand and called otherwise."""

    def __init__(self, size):
        super().__init__()
        self.g = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.g * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.layer(self.table(ids)).mean(1))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(288, 10),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(64, 64), Rms(64), nn.ReLU(), nn.Linear(64, 10))


class Trained(Program):
    """A program with AdamW, with one group or with two."""

    def __init__(self, net, *, split):
        super().__init__(net, F.cross_entropy)
        self.split = split

    def configure_optimizers(self):
        if not self.split:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3)


@pytest.mark.parametrize(
    ("net", "data", "norm"),
    [
        pytest.param(Encoder, sequences, "net.layer.norm1.weight", id="transformer"),
        pytest.param(cnn, lambda: digits(flat=False, n=512), "net.1.weight", id="CNN"),
        pytest.param(mlp, lambda: digits(n=512), "net.1.g", id="a norm by hand"),
    ],
)
def test_weight_decay_on_norm(net, data, norm):
    found, fixed = (
        fit(lambda split=split: Trained(net(), split=split), data(), epochs=1)
        for split in (False, True)
    )
    (finding,) = [f for f in found.findings if f.name == "weight-decay-on-norm"]
    assert finding.severity == "info"
    assert f"first {norm}" in finding.message
    assert alarms(found) == alarms(fixed) == []
    assert "weight-decay-on-norm" not in {f.name for f in fixed.findings}
