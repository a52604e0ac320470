"""Steps that are too short to lead anywhere in time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.chance import Chances
from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import (
    LossCalls,
    Observation,
    ParameterStart,
    Plan,
    RateTrial,
    RunEnd,
    RunStart,
    Updates,
)

HALF = 0.5
LONG = 100_000  # updates of a run that nobody has limited
UNIFORM = math.sqrt(3.0)  # largest over rms of a uniform distribution


@dataclass(kw_only=True)
class LearningRateTooLow(Check):
    """The loss stands still at this learning rate, and comes down at a thousand times of it.

    Why: the run ends long before the model has learned. A learning rate of zero is too low as
    well.

    The proof is a trial on a copy: from the initial weights, with a new optimizer of the same
    settings and a few batches of the run, the loss comes down with higher rates only.

    Silent when: updates are of a usual size; the rate is still rising (warm-up) or has come down;
    training goes on from trained weights, where small steps are meant: the first loss is below
    chance, parts are frozen, or weights are not those of a fresh layer (the last two only
    where updates are not ``tiny``); at the pace of the run so far, the updates that are planned
    bring the loss half of the way.

    Source: CS231n, Neural Networks Part 3, "Loss function" and "ratio of weights:updates".

    Args:
        ratio: Largest update over weight (rms) that counts as small.
        tiny: The same that counts as small in fine-tuning, too.
        factor: Smallest factor of the learning rate that has to do best.
        gain: Share of the initial loss that the better rate has to gain in the trial.
        little: Share of that gain that the rate of the run may make.
        scheduled: Share of the rate that the optimizer is set to below which the schedule is to
            blame.
        known: Share of the chance level above which the first loss of a fresh model lies.
        patience: Looks in a row with a learning rate of zero.
    """

    symptom_of = (
        "weights-not-updated",
        "scheduler-misconfigured",
        "vanishing-gradient",
        "zero-gradient",
        "activation-collapse",
        "weight-init-scale",
        "initial-loss",
        "saturated-activation",
        "clipping-too-tight",
        "precision-underflow",
        "regularization-dominates",
    )
    fix = "Multiply the learning rate by 10 until the loss falls; check its schedule."

    ratio: float = 1e-4
    tiny: float = 1e-5
    factor: float = 1000.0
    gain: float = 0.02
    little: float = 0.05
    scheduled: float = 0.1
    known: float = 0.6
    patience: int = 5
    _fresh: bool = field(default=False, init=False, repr=False)
    _resumed: bool = field(default=False, init=False, repr=False)
    _chances: Chances = field(default_factory=Chances, init=False, repr=False)
    _share: float = field(default=math.nan, init=False, repr=False)
    _planned: int = field(default=0, init=False, repr=False)
    _stepping: set[str] = field(default_factory=set, init=False, repr=False)
    _waiting: set[str] = field(default_factory=set, init=False, repr=False)
    _first_epoch: int = field(default=-1, init=False, repr=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember how long the run will be."""
        self._planned = obs.updates
        yield from ()

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """See whether the weights are those of fresh layers."""
        matrices = [p for p in obs.parameters.values() if p.fan_in > 1]
        self._resumed = obs.resumed
        drawn = sum(map(_is_uniform, matrices))
        self._fresh = 2 * drawn > len(matrices) and all(p.trainable for p in matrices)
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Hold the first loss against chance."""
        shares = [s.share for s in self._chances.update(obs) if not math.isnan(s.share)]
        if math.isnan(self._share) and shares:
            self._share = min(shares)
        yield from ()

    def on_rate_trial(self, obs: RateTrial) -> Iterator[Finding]:
        """Compare the best of the higher rates with that of the run."""
        own = next((arm for arm in obs.arms if arm.factor == 1.0), None)
        highest = min(obs.arms, key=lambda arm: arm.end, default=None)
        if own is None or highest is None or highest.factor < self.factor or not self._stands(obs):
            return
        best = obs.cautious([arm for arm in obs.arms if arm.factor > 1.0])
        gained, better = obs.start - own.end, obs.start - best.end
        if better < self.gain * abs(obs.start) or gained > self.little * better:
            return
        if self._arrives(obs, gained, better):
            return
        rate = obs.lr * best.factor
        message = (
            f"At the learning rate {obs.lr:.3g} of {obs.optimizer} one step changes the weights by"
            f" {obs.typical:.1e} of their size (about 1e-3 is usual), and after {obs.step} updates"
            f" the loss has gone from {obs.run[0]:.4g} to {obs.run[1]:.4g}. In {len(own.losses)}"
            f" steps of a copy from the initial weights it goes from {obs.start:.4g} to"
            f" {own.end:.4g}; with {rate:.3g} it goes to {best.end:.3g}."
        )
        fix = f"Set the learning rate to {rate:.3g} ({best.factor:g} times what it is)."
        if obs.lr < self.scheduled * obs.base:
            message += f" The optimizer is set to {obs.base:.3g}; the schedule stays far below."
            fix = (
                f"Let the schedule come up to {obs.base:.3g}: LambdaLR takes a function that"
                " returns a factor of the rate that the optimizer is set to, and not a rate."
            )
        yield self.finding(
            obs,
            message,
            where=obs.optimizer,
            fix=fix,
            patience=1,
            lr=obs.lr,
            factor=best.factor,
            ratio=obs.typical,
            start=obs.start,
            end=own.end,
            better=best.end,
        )

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Look for a learning rate of zero."""
        if self._first_epoch < 0:
            self._first_epoch = obs.epoch
        if not obs.resting:
            self._stepping.add(obs.optimizer)
        elif obs.optimizer not in self._stepping:
            scheduled = any(update.scheduled for update in obs.parameters.values())
            if scheduled and obs.epoch == self._first_epoch:
                self._waiting.add(obs.optimizer)
            else:
                yield self._zero(obs, obs.optimizer, 0)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Tell of a schedule that has never raised the rate."""
        if obs.completed and obs.step > self.patience:
            for optimizer in self._waiting - self._stepping:
                yield self._zero(obs, optimizer, 1)

    def _zero(self, obs: Observation, optimizer: str, patience: int) -> Finding:
        message = f"The learning rate of {optimizer} has been 0 since the first step."
        fix = "Set a learning rate such as 1e-3 (Adam) or 1e-2 (SGD), and check its schedule."
        return self.finding(obs, message, where=optimizer, fix=fix, patience=patience, lr=0.0)

    def _stands(self, obs: RateTrial) -> bool:
        """Tell whether steps are too small to be meant."""
        knows = self._resumed or self._share < self.known
        return not knows and obs.typical < (self.ratio if self._fresh else self.tiny)

    def _arrives(self, obs: RateTrial, gained: float, better: float) -> bool:
        """Tell whether the planned updates bring the loss half of the way at this pace."""
        pace = gained / max(1, len(obs.arms[0].losses))
        return (self._planned or LONG) * pace >= HALF * better


def _is_uniform(parameter: ParameterStart) -> bool:
    """Tell whether weights fill an interval evenly, as those of fresh layers do.

    A few steps of training are enough to push some of them over its edge.
    """
    return 0.85 * UNIFORM <= parameter.largest / max(parameter.rms, 1e-30) <= 1.12 * UNIFORM
