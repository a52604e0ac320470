"""What other learning rates would have done."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class RateArm:
    """A few steps of a copy at one learning rate.

    Attributes:
        factor: Of the learning rate of the run.
        losses: The loss on fresh batches before each step and after the last.
    """

    factor: float
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTrial(Observation):
    """A copy trained for a few steps at several learning rates, from one state.

    Attributes:
        optimizer: Which one was tried.
        lr: Its learning rate in the run.
        arms: The trials, by rising factor.
        skipped: Why it could not be done; empty if it was.
    """

    optimizer: str = ""
    lr: float = float("nan")
    arms: tuple[RateArm, ...] = ()
    skipped: str = ""
