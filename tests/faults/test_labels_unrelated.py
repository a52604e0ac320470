"""Labels of other samples, and the same programs with their own."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, regression

ADAM = partial(torch.optim.Adam, lr=3e-3)


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("val_loss", loss)
        return loss


class Data(pl.LightningDataModule):
    def __init__(self, x, y, validated):
        super().__init__()
        self.parts = TensorDataset(x[200:], y[200:]), TensorDataset(x[:200], y[:200])
        self.validated = validated

    def train_dataloader(self):
        return DataLoader(self.parts[0], batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.parts[1], batch_size=64) if self.validated else []


def mlp(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, outputs)
    )


class Manual(Program):
    """Optimized by hand."""

    def __init__(self):
        super().__init__(nn.Linear(64, 10), optimizer=ADAM)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


def conv():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 36, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def paired(data, validated, *, mixed):
    x, y = data.dataset.tensors
    if mixed:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(3))]
    return Data(x, y, validated)


@pytest.mark.parametrize(
    ("module", "data", "validated", "epochs"),
    [
        pytest.param(
            lambda: Validated(conv(), optimizer=ADAM),
            lambda: digits(flat=False, n=512),
            True,
            25,
            id="images, validated",
        ),
        pytest.param(
            lambda: Program(mlp(64, 10), optimizer=ADAM),
            lambda: digits(n=512),
            False,
            25,
            id="not validated",
        ),
        pytest.param(
            lambda: Validated(mlp(8, 1), F.mse_loss, ADAM),
            regression,
            True,
            40,
            id="floats",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_labels(module, data, validated, epochs):
    found = fit(module, paired(data(), validated, mixed=True), epochs=epochs)
    fixed = fit(module, paired(data(), validated, mixed=False), epochs=epochs)
    assert "labels-unrelated" in names(found)
    assert not next(f for f in found.findings if f.name == "labels-unrelated").caused_by
    # A network this large overfits the true labels too.
    assert [a for a in alarms(fixed) if "overfitting" not in a] == []


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(lambda: Program(nn.Linear(64, 10), optimizer=ADAM), digits, 10, id="linear"),
        pytest.param(
            lambda: Program(
                nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)),
                optimizer=partial(torch.optim.Adam, lr=1e-3),
            ),
            digits,
            10,
            id="small, with dropout",
        ),
        pytest.param(Manual, digits, 10, id="by hand"),
    ],
)
def test_labels_that_cannot_be_learned_by_heart(module, data, epochs):
    def loader(*, mixed):
        return paired(data(), False, mixed=mixed)

    found = fit(module, loader(mixed=True), epochs=epochs)
    (finding,) = [f for f in found.findings if f.name == "labels-unrelated"]
    assert not finding.caused_by
    assert "no better from the other samples than labels in a shuffled order" in finding.message
    assert alarms(fit(module, loader(mixed=False), epochs=epochs)) == []


def test_the_experiment_tells_them_apart():
    (made,) = [
        e
        for e in fit(lambda: Program(mlp(64, 10)), digits(), epochs=2).experiments
        if e.name == "shuffled labels"
    ]
    assert made.outcome == "passed"
    assert "standard deviations from shuffled ones" in made.detail
