"""A training step that is as hard to copy and to repeat as they come."""

import random
import threading

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F


class Worst(pl.LightningModule):
    """Whatever a training step may reach for."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()
        )
        self.head = nn.Linear(144, 10)
        self.hidden = [nn.Linear(10, 10)]
        self.generator = torch.Generator().manual_seed(3)
        self.numeric, self.plain = np.random.default_rng(0), random.Random(0)
        self.lock, self.stream = threading.Lock(), iter(range(10**9))
        self.history, self.seen, self.features = [], 0, []
        self.criterion = lambda a, b: F.cross_entropy(a, b) + 1e-4 * self.head.weight.square().sum()
        self.net[0].register_forward_hook(lambda *call: self.features.append(call[2]))

    def training_step(self, batch, batch_idx):
        x, y = batch
        x += 0.01 * torch.randn(x.shape, generator=self.generator)
        x = x + 0.01 * random.random() + 0.01 * np.random.rand() + 0.01 * self.numeric.normal()
        with self.lock:
            self.seen += 1
        next(self.stream)
        out = self.head(self.net(x.float()))
        loss = self.criterion(out + 0.0 * self.hidden[0](out), y)
        self.last = loss
        self.history.append(loss)
        self.log("loss", loss, prog_bar=True)
        if self.logger is not None:
            self.logger.experiment.add_scalar("loss", loss, self.global_step)
        print("a line a step")  # noqa: T201 - as users do
        return {"loss": loss * (1 + 0 * self.optimizers().param_groups[0]["lr"])}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
