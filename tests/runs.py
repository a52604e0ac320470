"""Small real training programs: what fault pairs and traps are made of."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite, Severity

Loss = Callable[[Tensor, Tensor], Tensor]


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 16.0, torch.tensor(data.target)


def digits(
    *, flat: bool = True, scale: float = 1.0, n: int = 1024, batch: int = 32, shuffle: bool = True
) -> DataLoader[Any]:
    """Handwritten digits: 64 pixels in [0, scale], or images of shape (1, 8, 8)."""
    x, y = _digits()
    x = x[:n] * scale
    x = x if flat else x.view(-1, 1, 8, 8)
    return DataLoader(TensorDataset(x, y[:n]), batch_size=batch, shuffle=shuffle)


def regression(*, n: int = 512, features: int = 8, batch: int = 32) -> DataLoader[Any]:
    """A noisy non-linear function of standard normal features; targets of shape (N, 1)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, features, generator=generator)
    y = (x[:, :2].prod(dim=1, keepdim=True) + x.sum(dim=1, keepdim=True)) / 3.0
    y = y + 0.1 * torch.randn(n, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def sequences(*, n: int = 512, length: int = 16, vocabulary: int = 20) -> DataLoader[Any]:
    """Token ids of shape (N, T); the class is whether token 1 is more frequent than token 2."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (n, length), generator=generator)
    ids = torch.where(torch.rand(n, length, generator=generator) < 0.3, ids % 2 + 1, ids)
    label = ((ids == 1).sum(1) > (ids == 2).sum(1)).long()
    return DataLoader(TensorDataset(ids, label), batch_size=32, shuffle=True)


class Program(pl.LightningModule):
    """A network, a loss and an optimizer; what most user programs look like."""

    def __init__(
        self,
        net: nn.Module,
        loss: Loss = F.cross_entropy,
        optimizer: Callable[..., torch.optim.Optimizer] = functools.partial(
            torch.optim.Adam, lr=1e-3
        ),
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.loss(self(x), y)
        if batch_idx % 10 == 0:  # logging takes half as long as a small step
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """Return a trainer that says and writes nothing of its own."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    quiet = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tempfile.gettempdir(),
    }
    return pl.Trainer(**(quiet | settings))


def fit(
    module: Callable[[], pl.LightningModule],
    data: Any,
    *,
    suite: DebugSuite | None = None,
    epochs: int = 2,
    callbacks: tuple[pl.Callback, ...] = (),
    seed: int = 0,
    resume: str | Path | None = None,
    validation: Any = None,
    **trainer: Any,
) -> DebugSuite:
    """Build a module from a seed, train it with the whole suite on, and return the suite."""
    pl.seed_everything(seed, verbose=False)
    model = module()
    suite = suite or DebugSuite(debug=True, sinks=[])
    run = quiet_trainer(max_epochs=epochs, callbacks=[suite, *callbacks], **trainer)
    run.fit(model, data, validation, ckpt_path=resume)
    assert not suite.failures, suite.failures
    return suite


def alarms(suite: DebugSuite) -> list[str]:
    """Return the findings at warning or error, readable in an assertion."""
    return [
        f"{f.severity} {f.name} at {f.where}: {f.message}"
        for f in suite.findings
        if f.severity >= Severity.WARNING
    ]


def names(suite: DebugSuite) -> set[str]:
    """Return the names of the findings at warning or error, symptoms included."""
    return {f.name for f in suite.findings if f.severity >= Severity.WARNING}


def places(suite: DebugSuite, name: str) -> set[str]:
    """Return the places of a finding."""
    return {place for f in suite.findings if f.name == name for place in f.places}
