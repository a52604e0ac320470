"""From one hidden layer to a convolutional network, one sound station after the other.

Run it with ``python examples/from_simple_to_conv.py``. It goes the way that checklists for
training advise: start with the simplest model that can work, see that it learns two samples by
heart and is better than a constant, and only then let it grow. At each station
``lightning_debug.preflight`` makes these experiments before the training, and the suite watches
the training. One station has a mistake, as stations have; it is found before time is spent on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_debug import DebugSuite, Finding, Severity, preflight


class Classifier(pl.LightningModule):
    """Any network that gives ten logits for an image of 8 x 8 pixels."""

    def __init__(self, net: nn.Module, lr: float = 3e-3) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def one_hidden_layer() -> nn.Module:
    """Start simple."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def convolution_with_a_mistake() -> nn.Module:
    """Grow, and forget that cross_entropy applies a softmax of its own."""
    return nn.Sequential(one_convolution(), nn.Softmax(dim=1))


def one_convolution() -> nn.Module:
    """Grow: a convolution before the linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def two_convolutions() -> nn.Module:
    """Grow again: deeper, with batch norm, and dropout once it can overfit."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(512, 10),
    )


STATIONS: list[Callable[[], nn.Module]] = [
    one_hidden_layer,
    convolution_with_a_mistake,
    one_convolution,
    two_convolutions,
]


@dataclass(frozen=True)
class Station:
    """What came of a station.

    Attributes:
        name: Of the network.
        alarms: Names of the warnings and errors.
        accuracy: On held-out digits; nan where it was not trained.
    """

    name: str
    alarms: tuple[str, ...]
    accuracy: float = float("nan")


def loaders() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """Return the training and the validation data."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    data = TensorDataset((x - x.mean()) / x.std(), torch.tensor(digits.target))
    train, val = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
    return DataLoader(train, 32, shuffle=True), DataLoader(val, 297)


def visit(make: Callable[[], nn.Module], epochs: int) -> Station:
    """Experiment with a network, and train it if nothing speaks against it."""
    name = make.__name__.replace("_", " ")
    print(f"\n=== {name} ===", flush=True)
    pl.seed_everything(0, verbose=False)
    model = Classifier(make())
    train, val = loaders()
    before = preflight(model, train, val)
    for experiment in before.experiments:
        detail = f": {experiment.detail}" if experiment.detail else ""
        print(f"  {experiment.outcome:15} {experiment.name}{detail}")
    if not before.ok:
        for finding in before.findings:
            print(f"  {finding.severity} {finding.name}: {finding.message}\n  fix: {finding.fix}")
        return Station(name, alarms(before.findings))
    suite = DebugSuite(preflight=False, sinks=[])
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[suite],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train, val)
    accuracy = float(trainer.callback_metrics["accuracy"])
    found = alarms(suite.findings)
    print(f"  trained: accuracy {accuracy:.3f}, findings: {', '.join(found) or 'none'}")
    return Station(name, found, accuracy)


def alarms(findings: list[Finding] | tuple[Finding, ...]) -> tuple[str, ...]:
    """Return the names of the warnings and errors."""
    return tuple(f.name for f in findings if f.severity >= Severity.WARNING)


def walk(epochs: int) -> list[Station]:
    """Visit all stations."""
    return [visit(make, epochs) for make in STATIONS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    stations = walk(options.epochs)
    print("\nstation                      accuracy  findings")
    for station in stations:
        found = ", ".join(station.alarms) or "none"
        print(f"{station.name:28} {station.accuracy:8.3f}  {found}")
