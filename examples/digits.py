"""A small convolutional network on handwritten digits, first with five mistakes, then repaired.

Run it with ``python examples/digits.py``. The first program trains without an error message, and
not even badly: digits forgive a lot. The suite says what is wrong with it all the same. On the
second one it has nothing to say.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_debug import DebugSuite


class Digits(pl.LightningModule):
    """Two convolutions and two linear layers; ``broken`` plants the mistakes."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        self.broken = broken
        conv, norm, drop = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Dropout(0.3)
        # Mistake 1: dropout before batch norm.
        order = (drop, norm) if broken else (norm, drop)
        self.features = nn.Sequential(conv, nn.ReLU(), *order, nn.MaxPool2d(2), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(256, 64), nn.ReLU())
        self.wide = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)
        if broken:
            # Mistake 2: a large initialisation.
            nn.init.normal_(self.head.weight, std=5.0)
            # Mistake 3: a layer killed by its bias.
            nn.init.constant_(self.wide.bias, -200.0)
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(self.features(x))
        # The wide layer sits in a residual branch, so that its death does not stop everything.
        logits: Tensor = self.head(hidden + F.relu(self.wide(hidden)))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.accuracy(self(x), y)
        self.log("accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.broken:
            # Mistake 4: the head is not handed to the optimizer.
            modules = (self.features, self.hidden, self.wide)
            return torch.optim.Adam([p for m in modules for p in m.parameters()], lr=2e-3)
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def loaders(*, broken: bool) -> tuple[DataLoader[tuple[Tensor, ...]], ...]:
    """Return the training and the validation data."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    if not broken:
        # Mistake 5 is not to do this: pixels stay at 0..16.
        x = (x - x.mean()) / x.std()
    data = TensorDataset(x, torch.tensor(digits.target))
    train, val = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
    return DataLoader(train, 32, shuffle=True), DataLoader(val, 297)


def run(title: str, folder: Path, *, broken: bool, epochs: int) -> float:
    """Train one of the two programs with the suite on and return its accuracy."""
    print(f"\n=== {title} ===", flush=True)
    pl.seed_everything(0, verbose=False)
    suite = DebugSuite(debug=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[suite],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Digits(broken=broken), *loaders(broken=broken))
    accuracy = float(trainer.callback_metrics["accuracy"])
    print(f"accuracy on held-out digits: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo_runs"))
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    run("with five mistakes", options.folder / "broken", broken=True, epochs=options.epochs)
    run("repaired", options.folder / "repaired", broken=False, epochs=options.epochs)
