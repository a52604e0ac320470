"""How much the gradient differs from batch to batch."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNoise(Observation):
    """The gradient noise scale, in samples (McCandlish et al. 2018).

    Attributes:
        scale: The estimate.
        low, high: Its bounds.
        batch: Samples of one update.
        skipped: Why it could not be done; empty if it was.
    """

    scale: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    batch: int = 0
    skipped: str = ""
