"""Steps that are too long to lead anywhere."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Losses, Plan, RateTrial, StepResponse, Updates
from lightning_debug.ratios import Ratios, by_group


@dataclass(kw_only=True)
class LearningRateTooHigh(Check):
    """The loss does not come down at this learning rate, and does at a lower one.

    Why: steps that are too long jump over the lowest point along their own direction. They throw
    away what was learned, kill units and leave the weights where smaller steps may not save them.

    The proof is a trial on a copy: from the initial weights, with a new optimizer of the same
    settings and a few batches of the run, the loss comes down at a lower rate only. What initial
    weights lose against a constant prediction is soon gained at any rate, and does not count while
    the run gains no more. Where no trial can be made, large updates, steps that overshoot and a
    loss that does not fall have to come together.

    Silent when: the loss of the run comes down; updates are of a usual size; the trial shows no
    lower rate that is much better. No number of the learning rate is ever judged by itself.

    Source: CS231n, Neural Networks Part 3, "Loss function" and "ratio of weights:updates"; the
    response along a step is the alpha of Schneider et al., Cockpit (2021).

    Args:
        ratio: Smallest update over weight (rms) that counts as large.
        gain: Share of the initial loss that the better rate has to gain in the trial, or of the
            loss of a constant prediction, if that is smaller.
        little: The same where the rate of the run makes the loss of the trial worse.
        advantage: How many times as much as the rate of the run it has to gain.
        wait: Updates, or half of the run if that is shorter, after which a trial has been made.
        untried: Smallest update over weight (rms) that counts as large where no trial was made.
        overshoot: Share of the steps that have to go beyond the lowest point along their
            direction, where no trial was made.
        fall: Share of the first loss that may be gone, where no trial was made.
        patience: Looks in a row, where no trial was made.
    """

    symptom_of = (
        "gradients-not-cleared",
        "accumulation-not-scaled",
        "input-not-normalized",
        "loss-reduction",
        "weight-init-scale",
        "target-broadcast",
        "wrong-gradient",
    )
    fix = "Divide the learning rate by 10, and add a warm-up if only the first steps need it."

    ratio: float = 0.03
    gain: float = 0.1
    little: float = 0.02
    advantage: float = 4.0
    wait: int = 50
    untried: float = 0.1
    overshoot: float = 0.6
    fall: float = 0.1
    patience: int = 8
    _tried: bool = field(default=False, init=False, repr=False)
    _awaited: float = field(default=0.0, init=False, repr=False)
    _held: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _first: float = field(default=math.nan, init=False, repr=False)
    _loss: float = field(default=math.nan, init=False, repr=False)
    _worst: dict[str, dict[str, Ratios]] = field(
        default_factory=lambda: defaultdict(dict), init=False, repr=False
    )
    _beyond: dict[str, list[bool]] = field(
        default_factory=lambda: defaultdict(list), init=False, repr=False
    )

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember until when a trial may come."""
        half = obs.updates / 2 if obs.updates else math.inf
        self._awaited = min(self.wait, half) if obs.trials else 0.0
        yield from ()

    def on_rate_trial(self, obs: RateTrial) -> Iterator[Finding]:
        """Compare the best of the lower rates with that of the run."""
        self._tried, self._awaited = not obs.skipped, 0.0
        own = next((arm for arm in obs.arms if arm.factor == 1.0), None)
        lower = [arm for arm in obs.arms if arm.factor < 1.0]
        if own is None or not lower or obs.ratio < self.ratio:
            return
        best = obs.cautious(lower)
        size = self.little * abs(obs.start)
        worse = own.end >= obs.start and obs.start - best.end >= size
        gained, better = obs.level - own.end, obs.level - best.end
        much = better >= self.gain * abs(obs.level) and better >= self.advantage * gained
        if worse or much:
            rate = obs.lr * best.factor
            steps = len(own.losses)
            message = (
                f"At the learning rate {obs.lr:.3g} of {obs.optimizer} the loss has gone from"
                f" {obs.run[0]:.3g} to {obs.run[1]:.3g}, and one step has changed the weights by"
                f" {obs.ratio:.2g} of their size (about 1e-3 is usual). In {steps} steps of a copy"
                f" from the initial weights it goes from {obs.start:.3g} to {own.end:.3g}; with"
                f" {rate:.3g} it goes to {best.end:.3g}."
            )
            if obs.level < obs.start:
                message += f" A constant prediction gives at most {obs.level:.3g}."
            fix = (
                f"Set the learning rate to {rate:.3g} ({best.factor:g} times what it is). If only"
                " the first steps need that, add a warm-up."
            )
            yield self.finding(
                obs,
                message,
                where=obs.optimizer,
                fix=fix,
                patience=1,
                lr=obs.lr,
                factor=best.factor,
                ratio=obs.ratio,
                start=obs.start,
                end=own.end,
                better=best.end,
            )

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the first loss and the last ones."""
        values = [value for _, value in obs.values]
        if values:
            self._first = values[0] if math.isnan(self._first) else self._first
            self._loss = median(values[-5:])
        yield from ()

    def on_step_response(self, obs: StepResponse) -> Iterator[Finding]:
        """Remember which steps went too far."""
        if obs.start < 0.0 and math.isfinite(obs.end):
            self._beyond[obs.optimizer].append(obs.end > 0.0)
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Judge large updates that overshoot, where no trial was made."""
        worst = self._worst[obs.optimizer]
        for group, ratios in by_group(obs).items():
            if group not in worst or ratios.median >= worst[group].median:
                worst[group] = ratios
        beyond = self._beyond[obs.optimizer]
        fallen = self._loss < self._first - self.fall * abs(self._first)
        few = len(beyond) < self.patience or sum(beyond) < self.overshoot * len(beyond)
        if self._tried or fallen or few:
            self._held.clear()
            return
        for group, ratios in worst.items():
            # Not the last ones: a step that kills the units is the last large one.
            if ratios.median < self.untried:
                continue
            if self._awaited and obs.step <= self._awaited:
                self._held[group] += 1  # a trial has the last word
            else:
                yield self._overshoots(obs, group, ratios, beyond)

    def _overshoots(
        self, obs: Updates, group: str, ratios: Ratios, beyond: Sequence[bool]
    ) -> Finding:
        message = (
            f"A step of {group} at the learning rate {ratios.lr:.3g} has changed the weights by"
            f" {ratios.median:.2g} of their size (about 1e-3 is usual), and {sum(beyond)} of"
            f" {len(beyond)} went beyond the lowest point of the loss along their direction. The"
            f" loss has gone from {self._first:.3g} to {self._loss:.3g}."
        )
        return self.finding(
            obs,
            message,
            where=group,
            patience=max(1, self.patience - self._held[group]),
            lr=ratios.lr,
            ratio=ratios.median,
            overshoot=sum(beyond) / len(beyond),
        )
