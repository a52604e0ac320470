"""How much the gradient differs from sample to sample."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNoise(Observation):
    """The gradient noise scale, in samples (McCandlish et al. 2018).

    In a batch of as many samples the noise is as large as the gradient; far beyond it, more
    samples say nothing new.

    Attributes:
        scale: The estimate.
        low, high: Two standard errors below and above it; ``high`` is infinite where the gradient
            cannot be told from noise.
        batch: Samples of a batch.
        skipped: Why it could not be done; empty if it was.
    """

    scale: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    batch: int = 0
    skipped: str = ""
