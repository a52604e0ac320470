"""What clipping made of the gradients."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping(Observation):
    """The gradients of one optimizer before and after they were clipped.

    Attributes:
        optimizer: Which one.
        before, after: Norm of all its gradients.
    """

    optimizer: str
    before: float = 1.0
    after: float = 1.0

    @property
    def stream(self) -> str:
        """Return the optimizer: each has its own gradients in one look."""
        return self.optimizer
