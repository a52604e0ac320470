"""What the loaders give: batches of training and of validation."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Observation):
    """One batch of training data, before the model sees it.

    Attributes:
        index: Number of the batch in its epoch.
        finite: Whether all float tensors in it hold only finite values.
    """

    index: int = 0
    finite: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation(Observation):
    """One pass over the validation data, while training.

    Attributes:
        loss: Mean of what ``validation_step`` returned, or of the validation loss that was
            logged; nan where there is neither.
    """

    loss: float = float("nan")
