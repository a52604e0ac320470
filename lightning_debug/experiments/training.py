"""What trains a copy: the experiments do not know how."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from lightning_debug.experiments.replica import Replica


class Training(Protocol):
    """Trains a copy with its own training step and optimizers, and leaves no trace in the run.

    Learning rates stay at the highest that the user's schedulers would bring, weight decay is 0,
    and gradients are not clipped, except by the step itself.
    """

    def __call__(
        self,
        replica: Replica,
        batches: Callable[[int], Any],
        *,
        steps: int,
        factor: float = 1.0,
        around: Callable[[], AbstractContextManager[Any]],
        after: Callable[[Tensor], bool],
    ) -> None:
        """Train from the state in which the copy is, inside :meth:`Replica.working`.

        Args:
            replica: Of the user's module, in its own dtype.
            batches: Gives the batch of each step, which the step may change.
            steps: How many at most.
            factor: Of the learning rates.
            around: Entered around each call of the training step.
            after: Called after each step with its loss, without its graph (nan where there is
                none); returns whether that is enough.

        Raises:
            NotApplicableError: If it cannot be trained.
            KeyboardInterrupt: If the user interrupts it.
        """
