"""Trainable parameters that the optimizer never got, and the same programs with them."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


class HeadOnly(Program):
    """Everything but the encoder is handed over."""

    def __init__(self, broken):
        super().__init__(
            nn.ModuleDict(
                {
                    "encoder": nn.Sequential(
                        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
                    ),
                    "head": nn.Sequential(nn.Flatten(), nn.Linear(128, 10)),
                }
            )
        )
        self.broken = broken

    def forward(self, x):
        return self.net["head"](self.net["encoder"](x))

    def configure_optimizers(self):
        part = self.net["head"] if self.broken else self.net
        return optim.Adam(part.parameters(), lr=1e-3)


class Resized(pl.LightningModule):
    """The head is replaced after the optimizer was built."""

    def __init__(self, broken):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1000))
        if not broken:
            self.net[2] = nn.Linear(32, 10)
        self.optimizer = optim.Adam(self.parameters(), lr=1e-3)
        if broken:
            self.net[2] = nn.Linear(32, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return self.optimizer


class Thawed(pl.LightningModule):
    """The body is unfrozen in the second epoch, and was filtered out in the first."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.body = nn.Sequential(nn.Embedding(20, 32), nn.LSTM(32, 32, batch_first=True))
        self.head = nn.Linear(32, 2)
        self.body.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.body(x)[0].mean(1)), y)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.body.requires_grad_(True)
            if not self.broken:
                self.optimizers().add_param_group({"params": list(self.body.parameters())})

    def configure_optimizers(self):
        return optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-3)


class Late(pl.LightningModule):
    """A layer that is made when training starts, which is after configure_optimizers."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.body = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.table = nn.Embedding(20, 32)

    def setup(self, stage):
        if not self.broken:
            self.head = nn.Linear(32, 2)

    def on_train_start(self):
        if self.broken:
            self.head = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.body(self.table(x)).mean(1)), y)

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=1e-3)


class Decay(pl.LightningModule):
    """Groups by name: what is neither weight nor bias is in none of them."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.scale = nn.Parameter(torch.ones(10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x) * self.scale, y)

    def configure_optimizers(self):
        named = dict(self.named_parameters())
        decay = [p for name, p in named.items() if "weight" in name]
        rest = [p for name, p in named.items() if ("bias" if self.broken else "") in name]
        rest = [p for p in rest if not any(p is other for other in decay)]
        return optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            HeadOnly,
            digits(flat=False),
            {"net.encoder.0.weight", "net.encoder.0.bias"},
            id="cnn, encoder left out",
        ),
        pytest.param(
            Resized, digits(), {"net.2.weight", "net.2.bias"}, id="mlp, head replaced later"
        ),
        pytest.param(
            Thawed,
            sequences(),
            {"body.0.weight", "body.1.weight_hh_l0"},
            id="lstm, unfrozen and never added",
        ),
        pytest.param(
            Late, sequences(), {"head.weight", "head.bias"}, id="transformer, head made too late"
        ),
        pytest.param(Decay, digits(), {"scale"}, id="mlp, groups by name"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "parameter-not-optimized" in names(broken)
    assert where <= places(broken, "parameter-not-optimized")
    assert alarms(fit(lambda: program(False), data)) == []


class Widened(pl.LightningModule):
    """A table that grows with the vocabulary, in a hook that comes after the optimizer."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.table, self.head = nn.Embedding(18 if broken else 20, 32), nn.Linear(32, 2)
        self.body = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)

    def on_train_start(self):
        if self.broken:
            old, self.table = self.table, nn.Embedding(20, 32)
            with torch.no_grad():
                self.table.weight[:18] = old.weight

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.body(self.table(x)).mean(1)), y)

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=1e-3)


def message(suite):
    [found] = [f for f in suite.findings if f.name == "parameter-not-optimized"]
    return found.message


@pytest.mark.parametrize(
    ("program", "data", "says"),
    [
        pytest.param(
            Resized, digits(), "Adam holds a tensor of shape (1000, 32)", id="mlp, head replaced"
        ),
        pytest.param(
            Widened, sequences(), "AdamW holds a tensor of shape (18, 32)", id="table replaced"
        ),
        pytest.param(
            Thawed, sequences(), "It was frozen when training started", id="lstm, unfrozen later"
        ),
    ],
)
def test_says_how_it_came_about(program, data, says):
    assert says in message(fit(lambda: program(True), data))
    assert alarms(fit(lambda: program(False), data)) == []
