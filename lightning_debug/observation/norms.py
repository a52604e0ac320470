"""What batch norms normalise over, and what they remember."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormCall:
    """One batch norm in one training step.

    Attributes:
        place: Its module path.
        values: Values of each channel that it normalised over.
    """

    place: str
    values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorms(Observation):
    """The batch norms of one training step, in the order in which they ran."""

    calls: tuple[BatchNormCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeGap(Observation):
    """The loss of one training batch in train mode and in eval mode, on a copy.

    Attributes:
        train, evaluated: The losses.
        skipped: Why it could not be done; empty if it was.
    """

    train: float = float("nan")
    evaluated: float = float("nan")
    skipped: str = ""
