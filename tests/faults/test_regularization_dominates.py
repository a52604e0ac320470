"""Regularization that outweighs the data, and the same with a sensible weight."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, regression, sequences


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Penalised(Program):
    """A regression with a penalty on all weights."""

    def __init__(self, weight, power):
        super().__init__(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)), F.mse_loss)
        self.weight, self.power = weight, power

    def training_step(self, batch, batch_idx):
        penalty = 0.0
        for parameter in self.parameters():
            penalty = penalty + parameter.abs().pow(self.power).sum()
        return super().training_step(batch, batch_idx) + self.weight * penalty


def by_hand(out, y):
    return -(out.log_softmax(1) * F.one_hot(y, 10)).sum(1).mean()


class Orthogonal(Program):
    """Rows of weight matrices are pulled to right angles and to length 1."""

    def __init__(self, weight):
        super().__init__(mlp())
        self.weight = weight

    def training_step(self, batch, batch_idx):
        matrices = [p for p in self.parameters() if p.ndim == 2]
        apart = sum((m @ m.T - torch.eye(len(m))).square().sum() for m in matrices)
        return super().training_step(batch, batch_idx) + self.weight * apart


class Squeezed(Orthogonal):
    """A hidden layer is pulled to 0."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net[1](self.net[0](x))
        loss = F.cross_entropy(self.net[2](hidden), y)
        return loss + self.weight * hidden.square().sum(1).mean()


class Tagger(Program):
    """An LSTM over tokens."""

    def __init__(self, **settings):
        super().__init__(
            nn.LSTM(16, 32, batch_first=True),
            optimizer=partial(torch.optim.AdamW, lr=3e-3, **settings),
        )
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.net(self.table(ids))[0][:, -1])


@pytest.mark.parametrize(
    ("module", "bug", "fix", "data"),
    [
        pytest.param(
            lambda wd: Program(mlp(), optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=wd)),
            0.5,
            5e-4,
            digits,
            id="SGD",
        ),
        pytest.param(
            lambda wd: Program(
                cnn(), optimizer=partial(torch.optim.Adam, lr=1e-3, weight_decay=wd)
            ),
            1.0,
            1e-4,
            lambda: digits(flat=False),
            id="Adam",
        ),
        pytest.param(lambda wd: Tagger(weight_decay=wd), 50.0, 0.01, sequences, id="AdamW"),
        pytest.param(
            lambda wd: Program(mlp(), by_hand, partial(torch.optim.SGD, lr=0.1, weight_decay=wd)),
            0.5,
            5e-4,
            digits,
            id="SGD with a loss by hand",
        ),
        pytest.param(Orthogonal, 10.0, 1e-3, digits, id="orthogonality"),
        pytest.param(Squeezed, 10.0, 1e-3, digits, id="penalty on activations"),
        pytest.param(lambda w: Penalised(w, 2), 1.0, 1e-5, regression, id="L2 in the loss"),
        pytest.param(lambda w: Penalised(w, 1), 1.0, 1e-5, regression, id="L1 in the loss"),
    ],
)
def test_regularization_dominates(module, bug, fix, data):
    found, fixed = fit(lambda: module(bug), data()), fit(lambda: module(fix), data())
    assert "regularization-dominates" in names(found)
    assert alarms(fixed) == []
