"""Losses that grow out of hand, and the programs without the bug."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression


class Autoencoder(Program):
    """A convolutional autoencoder."""

    def __init__(self, lr: float) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1),
                nn.Tanh(),
                nn.Conv2d(8, 8, 3, padding=1),
                nn.Tanh(),
                nn.ConvTranspose2d(8, 1, 2, 2),
            ),
            optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9),
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        return F.mse_loss(self.net(x), x)


class Attention(Program):
    """A transformer encoder over the rows of an image."""

    def __init__(self, lr: float) -> None:
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        super().__init__(encoder, optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9))
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net(self.embed(x.view(-1, 8, 8)))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


class Ascending(pl.LightningModule):
    """A handwritten regression that goes uphill, slowly at first."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(8, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.sign = sign

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return ((x @ self.weight + self.bias - y) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, maximize=self.sign < 0)


class Signed(Program):
    """A classifier whose loss has a sign."""

    def __init__(self, sign: float) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
        self.optimizer = partial(torch.optim.Adam, lr=3e-3)
        self.sign = sign

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.sign * F.cross_entropy(self.net(x), y)


class Bottleneck(Program):
    """A variational autoencoder of images, with a sign before its divergence."""

    def __init__(self, sign: float) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)))
        self.optimizer = partial(torch.optim.Adam, lr=2e-3)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.sign = sign

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        mean, log_variance = self.net(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1).mean()
        reconstruction = F.mse_loss(self.decoder(code), x, reduction="sum") / len(x)
        return reconstruction + self.sign * 0.1 * divergence


WRONG_SIGNS = [
    pytest.param(lambda: Signed(-1.0), lambda: Signed(1.0), 10, id="minus cross entropy"),
    pytest.param(lambda: Bottleneck(-1.0), lambda: Bottleneck(1.0), 14, id="minus divergence"),
]


@pytest.mark.parametrize(("bug", "fix", "epochs"), WRONG_SIGNS)
def test_wrong_sign(bug: Any, fix: Any, epochs: int) -> None:
    found = fit(bug, digits(), epochs=epochs)
    (top,) = [f for f in found.findings if f.name == "loss-diverging"]
    assert not top.caused_by
    assert "sign" in top.fix
    exploding = [f for f in found.findings if f.name == "exploding-gradient"]
    assert {f.caused_by for f in exploding} <= {"loss-diverging"}
    assert alarms(fit(fix, digits(), epochs=epochs)) == []


def linear(lr: float) -> Program:
    return Program(nn.Linear(8, 1), F.mse_loss, partial(torch.optim.SGD, lr=lr))


CASES = [
    pytest.param(
        lambda: (linear(0.97), regression()),
        lambda: (linear(0.05), regression()),
        10,
        id="linear regression, learning rate",
    ),
    pytest.param(
        lambda: (Attention(5.0), digits()),
        lambda: (Attention(0.02), digits()),
        4,
        id="transformer, learning rate",
    ),
    pytest.param(
        lambda: (Ascending(-1.0), regression()),
        lambda: (Ascending(1.0), regression()),
        15,
        id="functional, maximize=True",
    ),
    pytest.param(
        lambda: (Autoencoder(40.0), digits(flat=False)),
        lambda: (Autoencoder(0.1), digits(flat=False)),
        4,
        id="autoencoder, learning rate",
    ),
]


@pytest.mark.parametrize(("bug", "fix", "epochs"), CASES)
def test_loss_diverging(bug: Any, fix: Any, epochs: int) -> None:
    found, fixed = (fit(lambda m=m: m()[0], m()[1], epochs=epochs) for m in (bug, fix))
    assert "loss-diverging" in names(found)
    assert places(found, "loss-diverging") == {"loss"}
    assert alarms(fixed) == []
