"""What the number formats of the run cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision(Observation):
    """What got lost in the number format of one optimizer's parameters and gradients.

    Attributes:
        optimizer: Which one.
        scale: The factor of the gradient scaler; nan without one.
    """

    optimizer: str = ""
    scale: float = float("nan")

    @property
    def stream(self) -> str:
        """Return the optimizer: each has its own gradients in one look."""
        return self.optimizer
