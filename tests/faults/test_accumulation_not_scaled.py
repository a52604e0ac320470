"""Gradients of several batches, added up by hand: their sum, and their mean."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Accumulated(Program):
    def __init__(self, broken, net, loss=F.cross_entropy, *, every=4, optimizer=None):
        super().__init__(net, loss, optimizer or (lambda ps: optim.SGD(ps, lr=0.05)))
        self.automatic_optimization = False
        self.broken, self.every = broken, every

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = self.loss(self(x), y)
        self.manual_backward(loss if self.broken else loss / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss


def penalised(out, y):
    """Cross entropy, and a tenth of a penalty on large logits."""
    return F.cross_entropy(out, y) + 0.1 * out.square().mean()


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


class Handwritten(pl.LightningModule):
    """A loss written by hand, clipping at a norm that is never reached, and a growing window."""

    def __init__(self, broken):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.first = nn.Parameter(torch.randn(8, 32) / 8**0.5)
        self.second = nn.Parameter(torch.randn(32, 1) / 32**0.5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = ((x @ self.first).tanh() @ self.second - y).pow(2).mean()
        self.manual_backward(loss if self.broken else loss / 2)
        if batch_idx % 2:
            self.clip_gradients(optimizer, gradient_clip_val=1e3, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.02)


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            lambda b: Accumulated(
                b, nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
            ),
            digits(),
            "SGD",
            id="mlp",
        ),
        pytest.param(
            lambda b: Accumulated(b, cnn(), penalised, every=2),
            digits(flat=False),
            "SGD",
            id="cnn, two terms",
        ),
        pytest.param(
            lambda b: Accumulated(b, Text(), optimizer=lambda ps: optim.AdamW(ps, lr=1e-3)),
            sequences(),
            "AdamW",
            id="transformer, AdamW",
        ),
        pytest.param(Handwritten, regression(), "SGD", id="handwritten"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "accumulation-not-scaled" in names(broken)
    assert places(broken, "accumulation-not-scaled") == {where}
    assert alarms(fit(lambda: program(False), data)) == []
