"""The loss of a pass over the validation data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_debug.taps.statistics import bare, tensors_in

STAGES = frozenset(["val", "valid", "validation", "dev", "eval"])
FILLERS = frozenset(["epoch", "total", "mean", "avg", "dataloader", "idx", "0"])


class ValidationTap:
    """Averages what ``validation_step`` returns for the first loader, over batches and ranks.

    Only the mean over the ranks is a collective. Every rank has to come to it, so a rank on which
    this tap has failed takes part with no weight.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._weight = 0

    def begin(self) -> None:
        """Start a pass."""
        self._total, self._weight = None, 0

    def batch(self, outputs: Any, batch: Any) -> None:
        """Take in what ``validation_step`` returned for a batch of the first loader."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() > 0:
            size = batch_size(batch)
            # Summed here: the metric reads each value to see whether it is NaN.
            value = bare(loss).mean().float() * size
            self._total = value if self._total is None else self._total + value
            self._weight += size

    def loss(self, metrics: Mapping[str, Any], device: torch.device) -> float:
        """Return the mean loss of the pass, or the one that was logged; nan if there was none.

        A collective where there are several ranks.

        Args:
            metrics: What was logged.
            device: Where the ranks can exchange tensors.
        """
        total, self._total = self._total, None
        mean = MeanMetric(nan_strategy="ignore", sync_on_compute=False).to(device)
        if total is not None:
            mean.update(total.to(device) / self._weight, weight=self._weight)
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several and torch.distributed.get_world_size() > 1:
            mean.sync()
        return float(mean.compute()) if float(mean.weight) > 0 else logged_loss(metrics)


def batch_size(batch: Any) -> int:
    """Return the number of samples of a batch of any shape; 1 where nothing tells."""
    sizes = (tensor.shape[0] for tensor in tensors_in(batch) if tensor.ndim)
    return max(1, next(sizes, 1))


def logged_loss(metrics: Mapping[str, Any]) -> float:
    """Return the metric whose name says that it is the validation loss; nan if there is none."""
    named = sorted((len(_words(name)), name) for name in metrics if _is_loss(name))
    for _, name in named:
        value = metrics[name]
        if isinstance(value, (float, int)) or (isinstance(value, Tensor) and value.numel() == 1):
            return float(value)
    return math.nan


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def _is_loss(name: str) -> bool:
    words = set(_words(name))
    return "loss" in words and bool(words & STAGES) and words <= STAGES | FILLERS | {"loss"}
