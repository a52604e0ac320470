"""A LightningCLI program with the suite in its configuration.

Run it with ``python examples/cli/train.py fit --config examples/cli/debug.yaml``. The program knows
nothing of the suite: another YAML file, or ``--trainer.callbacks+=lightning_debug.DebugSuite`` on
the command line, is all it takes.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    """One hidden layer.

    Args:
        width: Units of the hidden layer.
        lr: Learning rate.
    """

    def __init__(self, width: int = 64, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(64, width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.head(self.body(x)), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # A mistake: the head is not handed to the optimizer.
        return torch.optim.Adam(self.body.parameters(), lr=self.hparams["lr"])


class Digits(pl.LightningDataModule):
    """Handwritten digits of 8 x 8 pixels.

    Args:
        batch_size: Samples in a batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        digits = load_digits()
        x = torch.tensor(digits.data, dtype=torch.float32) / 16.0
        data = TensorDataset(x, torch.tensor(digits.target))
        return DataLoader(data, self.batch_size, shuffle=True)


if __name__ == "__main__":
    LightningCLI(Classifier, Digits)
