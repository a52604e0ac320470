"""Losses that stay at chance, and the programs without the bug."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression

ADAM = partial(torch.optim.Adam, lr=1e-3)


def mlp(inputs: int = 64, outputs: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


class Augmented(Program):
    """A CNN; the augmentation shuffles the images, but not the labels."""

    def __init__(self, aligned: bool) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * 16, 10),
            )
        )
        self.aligned = aligned

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        order = torch.randperm(len(x))
        x = x[order] + 0.05 * torch.randn_like(x)
        return F.cross_entropy(self.net(x), y[order] if self.aligned else y)


class Recurrent(Program):
    """An LSTM that is meant to get (T, N, F), and gets the batch as time."""

    def __init__(self, swapped: bool) -> None:
        super().__init__(nn.LSTM(8, 48), optimizer=partial(torch.optim.Adam, lr=3e-3))
        self.head = nn.Linear(48, 10)
        self.swapped = swapped

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        rows = x.view(len(x), 8, 8)
        rows = rows.reshape(8, len(x), 8) if self.swapped else rows.transpose(0, 1)
        hidden, _ = self.net(rows)
        return F.cross_entropy(self.head(hidden[-1]), y)


class Uphill(pl.LightningModule):
    """A handwritten network; the optimizer maximises the loss."""

    def __init__(self, maximize: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(64, 64) / 8)
        self.second = nn.Parameter(torch.randn(64, 10) / 8)
        self.maximize = maximize

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(torch.relu(x @ self.first) @ self.second, y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3, maximize=self.maximize)


class Minus(Program):
    """The sign of the loss is wrong."""

    def __init__(self, sign: float) -> None:
        super().__init__(mlp(), optimizer=partial(torch.optim.SGD, lr=2e-3))
        self.sign = sign

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.sign * F.cross_entropy(self.net(x), y)


def misaligned() -> DataLoader[Any]:
    """A regression where each input has the target of its neighbour."""
    x, y = regression(n=4096).dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(x, y.roll(1, 0)), batch_size=32, shuffle=True)


CASES = [
    pytest.param(
        lambda: (Augmented(False), digits(flat=False)),
        lambda: (Augmented(True), digits(flat=False)),
        10,
        id="CNN, inputs and labels out of step",
    ),
    pytest.param(
        lambda: (Recurrent(True), digits()),
        lambda: (Recurrent(False), digits()),
        10,
        id="LSTM, reshape for transpose",
    ),
    pytest.param(
        lambda: (Uphill(True), digits()),
        lambda: (Uphill(False), digits()),
        10,
        id="functional, maximize=True",
    ),
    pytest.param(
        lambda: (Minus(-1.0), digits()),
        lambda: (Minus(1.0), digits()),
        10,
        id="MLP, minus before the loss",
    ),
    pytest.param(
        lambda: (Program(nn.Linear(8, 1), F.mse_loss, ADAM), misaligned()),
        lambda: (Program(nn.Linear(8, 1), F.mse_loss, ADAM), regression(n=4096)),
        4,
        id="regression, targets shifted by one",
    ),
]


@pytest.mark.parametrize(("bug", "fix", "epochs"), CASES)
def test_loss_not_decreasing(bug: Any, fix: Any, epochs: int) -> None:
    found, fixed = (fit(lambda m=m: m()[0], m()[1], epochs=epochs) for m in (bug, fix))
    assert "loss-not-decreasing" in names(found)
    assert places(found, "loss-not-decreasing") <= {"training_step", "loss"}
    assert alarms(fixed) == []
