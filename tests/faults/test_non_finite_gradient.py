"""Functions with a finite value and an infinite slope, and the same programs made safe."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Length(nn.Module):
    """The length of each feature vector; digits have empty corners, where it is 0."""

    def __init__(self, broken):
        super().__init__()
        self.eps = 0.0 if broken else 1e-6

    def forward(self, x):
        return (x.square().sum(1) + self.eps).sqrt().flatten(1)


def lengths(broken):
    return Program(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            Length(broken),
            nn.LayerNorm(64),
            nn.Linear(64, 10),
        )
    )


class Distances(pl.LightningModule):
    """Pairwise distances in the batch, with the zeros on the diagonal."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        squares = (z[:, None] - z[None]).square().sum(2)
        distances = squares.sqrt() if self.broken else (squares + 1e-8).sqrt()
        same = y[:, None] == y[None]
        return torch.where(same, distances, F.relu(1.0 - distances)).mean()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Safe(nn.Module):
    """torch.where takes the good branch; backward goes through both."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken

    def forward(self, x):
        positive = x > 0
        inside = x if self.broken else torch.where(positive, x, torch.ones_like(x))
        return torch.where(positive, inside.sqrt(), torch.zeros_like(x))


def where(broken):
    net = nn.Sequential(nn.Linear(8, 32), Safe(broken), nn.Linear(32, 1))
    return Program(net, F.mse_loss)


class Cosine(nn.Module):
    """Attention by cosine similarity; padding has a vector of zeros, without a direction."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.table = nn.Embedding(20, 16, padding_idx=1)
        self.query, self.key = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 2)

    def unit(self, x):
        squares = x.square().sum(2, keepdim=True)
        return x / (squares.sqrt() + 1e-6) if self.broken else x * (squares + 1e-6).rsqrt()

    def forward(self, ids):
        x = self.table(ids)
        scores = 4.0 * self.unit(self.query(x)) @ self.unit(self.key(x)).transpose(1, 2)
        return self.head((scores.softmax(2) @ x).mean(1))


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(lengths, digits(flat=False), "net.1", id="cnn, length of zero"),
        pytest.param(
            Distances, digits(), "training_step", id="metric learning, distance to itself"
        ),
        pytest.param(where, regression(), "net.1", id="mlp, the other branch of where"),
        pytest.param(
            lambda broken: Program(Cosine(broken)), sequences(), "net", id="attention, padding"
        ),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "non-finite-gradient" in names(broken)
    assert any(place.startswith(where) for place in places(broken, "non-finite-gradient"))
    assert alarms(fit(lambda: program(False), data)) == []
