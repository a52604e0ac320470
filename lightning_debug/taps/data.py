"""What the batch holds."""

from __future__ import annotations

import math
from typing import Any

import torch

from lightning_debug.taps.statistics import dense, tensors_in, total
from lightning_debug.taps.transfer import Entry, Ledger

MOST_TENSORS = 16


class BatchTap:
    """Sums up the float tensors of a batch."""

    def __init__(self) -> None:
        self._totals: list[Entry] = []

    def measure(self, batch: Any, ledger: Ledger) -> None:
        """Note the numbers of a batch of any shape."""
        with torch.no_grad():
            values = [v for t in tensors_in(batch) if (v := dense(t)) is not None]
            self._totals = ledger.note_all([total(v) for v in values[:MOST_TENSORS]])

    @property
    def finite(self) -> bool:
        """Tell whether all values of the batch are finite."""
        return all(math.isfinite(entry.value) for entry in self._totals)
