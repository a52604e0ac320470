"""Optimizers that run and change nothing, and the same programs mended."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Rates(Program):
    """The rate of one group was meant as a switch, and left off."""

    def __init__(self, broken):
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
            )
        )
        self.rate = 0.0 if broken else 1e-3

    def configure_optimizers(self):
        groups = [
            {"params": self.net[0].parameters(), "lr": self.rate},
            {"params": self.net[3].parameters()},
        ]
        return optim.AdamW(groups, lr=1e-3)


class Restored(Program):
    """The best weights so far are loaded again after each batch, not at the end."""

    def __init__(self, broken):
        super().__init__(mlp())
        self.broken = broken

    def on_train_start(self):
        self.best = copy.deepcopy(self.net.state_dict())

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.broken:
            self.net.load_state_dict(self.best)


class Clipped(Program):
    """The embedding is set back to pretrained vectors at each step."""

    def __init__(self, broken):
        net = nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(256, 2))
        super().__init__(net)
        self.register_buffer("vectors", torch.randn(20, 16))
        net[0].weight.data.copy_(self.vectors)
        self.broken = broken

    def training_step(self, batch, batch_idx):
        if self.broken:
            self.net[0].weight.data.copy_(self.vectors)
        return super().training_step(batch, batch_idx)


class Schedule(Program):
    """Integer division makes the factor 0 for the first thousand steps."""

    def __init__(self, broken, interval="step"):
        super().__init__(mlp())
        self.broken, self.interval = broken, interval

    def configure_optimizers(self):
        optimizer = optim.SGD(self.parameters(), lr=0.1)
        factor = (lambda step: step // 1000) if self.broken else (lambda step: min(1, step / 10))
        schedule = lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": self.interval}]


class Wrong(pl.LightningModule):
    """Manual optimization of two parts; the step of the second was copied and not renamed."""

    def __init__(self, broken):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        body, head = self.optimizers()
        body.zero_grad()
        head.zero_grad()
        loss = F.cross_entropy(self.head(self.encoder(x)), y)
        self.manual_backward(loss)
        body.step()
        (body if self.broken else head).step()
        return loss

    def configure_optimizers(self):
        return (
            optim.Adam(self.encoder.parameters(), lr=1e-3),
            optim.SGD(self.head.parameters(), lr=0.1),
        )


class Forgotten(pl.LightningModule):
    """Manual optimization without a step."""

    def __init__(self, broken):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.table, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.cross_entropy(self.head(self.rnn(self.table(x))[1][-1]), y)
        self.manual_backward(loss)
        if not self.broken:
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


EVERY = {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            Rates, digits(flat=False), {"net.0.weight", "net.0.bias"}, id="cnn, group at rate 0"
        ),
        pytest.param(Restored, digits(), EVERY, id="mlp, weights restored after each step"),
        pytest.param(Clipped, sequences(), {"net.0.weight"}, id="embedding set back"),
        pytest.param(Schedule, digits(), EVERY, id="mlp, schedule stays at 0"),
        pytest.param(
            partial(Schedule, interval="epoch"), digits(), EVERY, id="schedule stays at 0, by epoch"
        ),
        pytest.param(
            Wrong, digits(), {"head.weight", "head.bias"}, id="manual, the wrong optimizer steps"
        ),
        pytest.param(Forgotten, sequences(), {"Adam"}, id="manual, no optimizer steps"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "weights-not-updated" in names(broken)
    assert where == places(broken, "weights-not-updated")
    assert alarms(fit(lambda: program(False), data)) == []
