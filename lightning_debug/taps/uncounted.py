"""Counts the optimizer steps that the trainer does not count."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from lightning_debug.taps.wiring import Wiring


class UncountedSteps:
    """Counts the steps of a model's optimizers, from the first that the trainer did not count.

    Lightning counts a step that is made through its own wrapper: not that of an optimizer from
    ``self.optimizers(use_pl_optimizer=False)``, or of one that the program keeps to itself.
    Until such a step has been seen, nothing is attached.

    Args:
        wiring: Knows the optimizers of the model.

    Attributes:
        made: The steps so far.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._handle: RemovableHandle | None = None
        self.made = 0

    def begin(self, seen: int) -> None:
        """Count from now on, after so many steps that have been seen."""
        self.made += seen
        if self._handle is None:
            self._handle = register_optimizer_step_post_hook(self._stepped)

    def end(self) -> None:
        """Count no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.made += any(known is optimizer for known in self._wiring.optimizers)
