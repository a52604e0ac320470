"""What ran: the head of ``run.json``. Plain values, nothing that could be a secret."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

PACKAGES = ("lightning-debug", "torch", "pytorch-lightning", "lightning", "torchmetrics", "numpy")


def describe(
    model: Module, optimizers: Sequence[Optimizer], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a run that is about to start."""
    parameters = list(model.parameters())
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "optimizers": [type(optimizer).__name__ for optimizer in optimizers],
        "trainer": dict(settings),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
