"""All data in one batch, and the same programs with the size that is advised."""

import functools

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit

LOSSES: list[float] = []
ADAM = functools.partial(optim.Adam, lr=3e-3)


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)
    )


class Recorded(Program):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        LOSSES.append(float(outputs["loss"]))


class Functional(pl.LightningModule):
    """A table of weights and a step written by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.first = nn.Parameter(0.3 * torch.randn(12, 24))
        self.second = nn.Parameter(0.2 * torch.randn(24, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.mse_loss(torch.tanh(x @ self.first) @ self.second, y)
        self.manual_backward(loss)
        optimizer.step()
        LOSSES.append(float(loss))
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=2e-3)


def smooth(batch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2048, 12, generator=generator)
    y = x.sum(1, keepdim=True) / 3
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def last(module, data, epochs):
    LOSSES.clear()
    suite = fit(module, data, epochs=epochs)
    return suite, LOSSES[-1]


@pytest.mark.parametrize(
    ("module", "data", "batch", "epochs"),
    [
        pytest.param(lambda: Recorded(mlp(), optimizer=ADAM), digits, 1024, 8, id="mlp"),
        pytest.param(
            lambda: Recorded(cnn(), optimizer=functools.partial(optim.SGD, lr=0.05, momentum=0.9)),
            functools.partial(digits, flat=False),
            1024,
            10,
            id="cnn",
        ),
        pytest.param(Functional, smooth, 2048, 20, id="by hand"),
        pytest.param(Functional, smooth, 1024, 10, id="two batches"),
    ],
)
def test_one_batch_an_epoch(module, data, batch, epochs):
    found, before = last(module, data(batch=batch), epochs)
    [finding] = [f for f in found.findings if f.name == "batch-size-too-large"]
    assert finding.severity is Severity.WARNING
    size = int(finding.evidence["advised"])
    assert finding.fix == f"DataLoader(..., batch_size={size})."
    fixed, after = last(module, data(batch=size), epochs)
    assert alarms(fixed) == []
    assert after < before


def test_one_batch_meant_as_all():
    suite = fit(lambda: Recorded(mlp(), optimizer=ADAM), digits(), epochs=8, limit_train_batches=1)
    [finding] = [f for f in suite.findings if f.name == "batch-size-too-large"]
    assert finding.severity is Severity.INFO
    assert "limit_train_batches=1 is one batch" in finding.message
