"""The loss of a pass over the validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric


class ValidationTap:
    """Averages what ``validation_step`` returns."""

    def __init__(self) -> None:
        self._mean = MeanMetric(sync_on_compute=False)

    def begin(self) -> None:
        """Start a pass."""
        self._mean.reset()

    def batch(self, outputs: Any) -> None:
        """Take in what ``validation_step`` returned."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._mean.to(loss.device).update(loss.detach())

    def loss(self, metrics: Mapping[str, Any]) -> float:
        """Return the mean loss of the pass; nan if there was none."""
        return float(self._mean.compute()) if self._mean.update_called else math.nan
