"""How the loss answers to steps, and what other learning rates would have done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResponse(Observation):
    """The slope of the loss along one step, at its start and at its end.

    Attributes:
        optimizer: Which one made the step.
        start: Step times the gradient that made it: how far the loss should have fallen.
        end: Step times the gradient of the next batch, after the step. Positive where the step
            went beyond the lowest point along its own direction.
    """

    optimizer: str
    start: float
    end: float

    @property
    def stream(self) -> str:
        """Return the optimizer: each makes its own steps."""
        return self.optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class RateArm:
    """A few steps of a copy at one learning rate.

    Attributes:
        factor: Of the learning rate of the run.
        losses: The loss of each step.
        end: The mean loss over the batches after the last step; infinity where it is
            not finite.
    """

    factor: float
    losses: tuple[float, ...] = ()
    end: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTrial(Observation):
    """A copy trained for a few steps at several learning rates, from one state.

    Attributes:
        optimizer: Which one was tried.
        lr: Its largest learning rate in the run.
        base: What a scheduler takes as its full learning rate; nan without one.
        ratio, typical: The largest update over weight (rms) in the run, and the median.
        run: The first loss of the run, and the mean of the last ones before the trial.
        start: The mean loss of the initial weights over the batches.
        chance: What a constant prediction gave at most on a batch of the run, where the run has
            come to no better; nan where it has, or that is not known.
        arms: The trials, by rising factor.
        undecayed: The trial at the learning rate of the run without weight decay; None where
            there is none.
        skipped: Why it could not be done; empty if it was.
    """

    optimizer: str = ""
    lr: float = float("nan")
    base: float = float("nan")
    ratio: float = float("nan")
    typical: float = float("nan")
    run: tuple[float, float] = (float("nan"), float("nan"))
    start: float = float("nan")
    chance: float = float("nan")
    arms: tuple[RateArm, ...] = ()
    undecayed: RateArm | None = None
    skipped: str = ""

    @property
    def level(self) -> float:
        """Return the loss below which something is learned.

        Initial weights may do worse than a constant prediction; to come down to that one is easy.
        """
        return self.chance if self.chance < self.start else self.start

    def cautious(self, arms: Sequence[RateArm]) -> RateArm:
        """Return the lowest of several rates that gains at least half as much as the best.

        A few batches are soon learned at a rate that a whole run does not stand.
        """
        best = max(self.level - arm.end for arm in arms)
        enough = best - abs(best) / 2.0
        return min((arm for arm in arms if self.level - arm.end >= enough), key=_factor)


def _factor(arm: RateArm) -> float:
    return arm.factor
