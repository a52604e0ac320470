"""Rare classes that are lost, and the programs that keep them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tests.runs import Program, alarms, fit, names, places


def samples(shares, *, n=2048, features=12, signal=0.9, seed=0):
    """Gaussian clouds that overlap, in these shares."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
    centres = torch.randn(len(shares), features, generator=generator)
    centres = centres / centres.norm(dim=1, keepdim=True) * signal
    return torch.randn(n, features, generator=generator) + centres[y], y


def loader(shares, *, balanced=False, shape=(), **settings):
    x, y = samples(shares, **settings)
    data = TensorDataset(x.view(len(x), *shape) if shape else x, y)
    if not balanced:
        return DataLoader(data, batch_size=64, shuffle=True)
    weights = 1.0 / torch.bincount(y)[y]
    return DataLoader(data, batch_size=64, sampler=WeightedRandomSampler(weights, len(y)))


def mlp(outputs):
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, outputs))


class Cnn(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 3, padding=1)
        self.fc = nn.Linear(96, outputs)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


def binary(**settings):
    def loss(z, y):
        return F.binary_cross_entropy_with_logits(z.squeeze(1), y.float(), **settings)

    return loss


class FocalLoss(nn.Module):
    def forward(self, logits, y):
        ce = F.cross_entropy(logits, y, reduction="none")
        alpha = torch.tensor([0.2, 5.0, 5.0])[y]
        return (alpha * (1 - torch.exp(-ce)) ** 2 * ce).mean()


RARE = (0.95, 0.05)
THREE = (0.94, 0.03, 0.03)


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        pytest.param(
            lambda: (Program(mlp(2)), loader(RARE)),
            lambda: (
                Program(mlp(2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 19.0]))),
                loader(RARE),
            ),
            id="class weights",
        ),
        pytest.param(
            lambda: (Program(Cnn(1), binary()), loader(RARE, shape=(1, 12))),
            lambda: (
                Program(Cnn(1), binary(pos_weight=torch.tensor(19.0))),
                loader(RARE, shape=(1, 12)),
            ),
            id="pos_weight",
        ),
        pytest.param(
            lambda: (Program(Cnn()), loader(THREE, shape=(1, 12))),
            lambda: (Program(Cnn()), loader(THREE, shape=(1, 12), balanced=True)),
            id="balanced sampler",
        ),
        pytest.param(
            lambda: (Program(Cnn()), loader(THREE, shape=(1, 12))),
            lambda: (Program(Cnn(), FocalLoss()), loader(THREE, shape=(1, 12))),
            id="focal loss",
        ),
    ],
)
def test_pair(bug, fix):
    module, data = bug()
    found = fit(lambda: module, data, epochs=12)
    assert "class-imbalance" in names(found)
    assert places(found, "class-imbalance") == {"training_step"}
    module, data = fix()
    assert alarms(fit(lambda: module, data, epochs=12)) == []


def shares(x, y):
    """Return the share of each class, which many take for its weight."""
    return torch.bincount(y).float() / len(y)


class Scored(nn.Module):
    """Log-probabilities, and a loss with the shares as weights, or with their inverse."""

    def __init__(self, weights):
        super().__init__()
        self.loss = nn.NLLLoss(weight=weights)

    def forward(self, logits, y):
        return self.loss(logits.log_softmax(1), y)


def ratio(x, y):
    """Return how many positives there are for each negative: pos_weight is its inverse."""
    return (y == 1).sum() / (y == 0).sum()


@pytest.mark.parametrize(
    ("module", "weights", "classes", "shape"),
    [
        pytest.param(lambda w: Program(mlp(3), Scored(w)), shares, THREE, (), id="shares"),
        pytest.param(
            lambda w: Program(Cnn(1), binary(pos_weight=w)), ratio, RARE, (1, 12), id="pos_weight"
        ),
    ],
)
def test_weights_the_wrong_way_round(module, weights, classes, shape):
    wrong = weights(*samples(classes))
    found = fit(lambda: module(wrong), loader(classes, shape=shape), epochs=12)
    (finding,) = [f for f in found.findings if f.name == "class-imbalance"]
    assert "the wrong way round" in finding.message
    fixed = fit(lambda: module(1.0 / wrong), loader(classes, shape=shape), epochs=12)
    assert alarms(fixed) == []
