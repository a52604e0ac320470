"""Targets that are all the same, and the same programs with targets that differ."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences

ADAM = partial(torch.optim.Adam, lr=3e-3)


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def mlp():
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))


class Tokens(Program):
    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 1)

    def training_step(self, batch, batch_idx):
        ids, y = batch
        logits = self.head(self.body(self.net(ids)).mean(1)).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits, y.float())


def relabelled(data, change):
    x, y = data.dataset.tensors
    return DataLoader(TensorDataset(x, change(y)), batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("module", "bug", "fix"),
    [
        pytest.param(
            lambda: Program(conv()),
            lambda: relabelled(digits(flat=False), lambda y: y // 10),
            lambda: digits(flat=False),
            id="classes cut off",
        ),
        pytest.param(
            Tokens,
            lambda: relabelled(sequences(), lambda y: y > 1),
            sequences,
            id="a comparison that is never true",
        ),
        pytest.param(
            lambda: Program(mlp(), F.mse_loss, ADAM),
            lambda: relabelled(regression(), lambda y: torch.full_like(y, 7.5)),
            regression,
            id="wrong column",
        ),
    ],
)
def test_targets(module, bug, fix):
    found, fixed = fit(module, bug()), fit(module, fix())
    assert "constant-target" in names(found)
    assert places(found, "constant-target") == {"batch[1]"}
    assert alarms(fixed) == []
