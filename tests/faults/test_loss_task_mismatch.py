"""Losses and outputs that do not fit the targets, and the programs without the bug."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences

ADAM = partial(torch.optim.Adam, lr=3e-3)


def mlp(*last, inputs=64, outputs=10):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs), *last)


class Binary(Program):
    """An LSTM with one output for two classes."""

    def __init__(self, loss, outputs=1):
        super().__init__(nn.Embedding(20, 16), loss)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, outputs)

    def training_step(self, batch, batch_idx):
        ids, y = batch
        return self.loss(self.head(self.lstm(self.net(ids))[0][:, -1]), y)


class Cnn(Program):
    """Small images in, something of their size out."""

    def __init__(self, last, scale=1.0, shift=0.0):
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), last
            )
        )
        self.scale, self.shift = scale, shift

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self.net(x + 0.2 * torch.randn_like(x)), x * self.scale + self.shift)


class Mask(Program):
    """Segmentation of the bright pixels; masks of 0 and 255, as they are read from a file."""

    def __init__(self, scale):
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
            ),
            nn.BCEWithLogitsLoss(),
        )
        self.scale = scale

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return self.loss(self.net(x), (x > 0.5).float() * self.scale)


class Multilabel(Program):
    def __init__(self, loss):
        super().__init__(mlp(outputs=4), loss)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(
            self.net(x), torch.stack([y % 2, y > 4, y % 3, y < 7], 1).clamp(0, 1) * 1.0
        )


def shifted(mean, std, targets=True):
    """A regression with a side that is in other units."""
    x, y = regression(n=1024).dataset.tensors
    y = (y - y.mean()) / y.std() * std + mean
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


class Rescaled(Program):
    """Predictions are turned back into units, targets are not."""

    def __init__(self, scale):
        super().__init__(mlp(inputs=8, outputs=1))
        self.scale = scale

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x) * self.scale + 50.0 * (self.scale != 1.0), y)


def to_number(z, y):
    return F.mse_loss(z, y.float().unsqueeze(1))


def binary(z, y):
    return F.binary_cross_entropy_with_logits(z.squeeze(1), y.float())


PAIRS = [
    pytest.param(
        lambda: Binary(lambda z, y: F.cross_entropy(z, y.float().unsqueeze(1))),
        lambda: Binary(binary),
        sequences(),
        "one class",
        id="cross_entropy over one column",
    ),
    pytest.param(
        lambda: Binary(lambda z, y: F.binary_cross_entropy(z.softmax(1).squeeze(1), y.float())),
        lambda: Binary(lambda z, y: F.binary_cross_entropy(z.sigmoid().squeeze(1), y.float())),
        sequences(),
        "over one unit",
        id="softmax over one unit",
    ),
    pytest.param(
        lambda: Binary(lambda z, y: F.cross_entropy(z.squeeze(1), y.float())),
        lambda: Binary(binary),
        sequences(),
        "samples for classes",
        id="softmax over the batch",
    ),
    pytest.param(
        lambda: Program(mlp(outputs=1), binary),
        lambda: Program(mlp(outputs=1), lambda z, y: binary(z, y > 4)),
        digits(),
        "0 to 9",
        id="class numbers in a binary cross entropy",
    ),
    pytest.param(
        lambda: Mask(255.0),
        lambda: Mask(1.0),
        digits(flat=False),
        "0 to 255",
        id="masks of 255",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        lambda: Program(mlp(), to_number),
        lambda: Program(mlp(), F.cross_entropy),
        digits(),
        "number of the class",
        id="mse on class numbers",
    ),
    pytest.param(
        lambda: Program(mlp(outputs=1), lambda z, y: F.mse_loss(z.squeeze(1), y.float())),
        lambda: Program(mlp(), F.cross_entropy),
        digits(),
        "the numbers are names",
        id="one output for class numbers",
    ),
    pytest.param(
        lambda: Multilabel(F.cross_entropy),
        lambda: Multilabel(F.binary_cross_entropy_with_logits),
        digits(),
        "several classes are true",
        id="multilabel under a softmax",
    ),
    pytest.param(
        lambda: Cnn(nn.Sigmoid(), 3.0, -1.0),
        lambda: Cnn(nn.Sigmoid()),
        digits(flat=False),
        "made by a sigmoid",
        id="sigmoid decoder of standardised images",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        lambda: Cnn(nn.Tanh(), 4.0),
        lambda: Cnn(nn.Tanh(), 2.0, -1.0),
        digits(flat=False),
        "made by a tanh",
        id="tanh decoder of large images",
    ),
    pytest.param(
        lambda: Program(mlp(nn.ReLU(), inputs=8, outputs=1), F.l1_loss, ADAM),
        lambda: Program(mlp(inputs=8, outputs=1), F.l1_loss, ADAM),
        regression(),
        "made by a relu",
        id="relu before negative targets",
    ),
    pytest.param(
        lambda: Program(mlp(inputs=8, outputs=1), F.mse_loss),
        lambda: Program(mlp(inputs=8, outputs=1), lambda p, y: F.mse_loss(p, (y - 200.0) / 5e4)),
        shifted(200.0, 5e4),
        "training does not bring them together",
        id="targets in units",
    ),
    pytest.param(
        lambda: Rescaled(5e3),
        lambda: Rescaled(1.0),
        regression(),
        "training does not bring them together",
        id="predictions in units",
    ),
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("bug", "fix", "data", "words"), PAIRS)
def test_pair(bug, fix, data, words):
    found = fit(bug, data)
    assert "loss-task-mismatch" in names(found)
    assert places(found, "loss-task-mismatch") <= {"training_step", "criterion", "loss"}
    assert words in next(f.message for f in found.findings if f.name == "loss-task-mismatch")
    assert alarms(fit(fix, data)) == []
