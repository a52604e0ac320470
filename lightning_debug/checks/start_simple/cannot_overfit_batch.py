"""A model that cannot learn two samples by heart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import NO_WAY_BACK, NO_WAY_THROUGH, Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Losses, Overfit, OverfitArm, RunEnd


@dataclass(kw_only=True)
class CannotOverfitBatch(Check):
    """A copy trained on one or two samples does not learn them by heart.

    Why: what a model cannot do with two samples it cannot do with more: outputs that cannot take
    the values of the targets, a path from input to loss that is cut, a loss that asks for
    something else.

    Silent when: the loss comes down, or predictions are right for half of what a constant gets
    wrong; another learning rate does; a copy gets on with more samples of the batch; the loss has
    other parts that work against it (penalties, a prior); predictions are not compared with fixed
    targets (contrastive, adversarial and reinforcement learning); the time for it would not
    suffice.

    Source: Karpathy, A Recipe for Training Neural Networks (2019), "overfit one batch".

    Args:
        share: Of what lies between a constant prediction and a perfect one; a copy that gets
            this far is on its way.
        some: The same where several values are predicted for a sample, as for tokens and pixels:
            some may be beyond what the model is shown.
        below: Share of the loss of a constant; a copy that predicts several classes for a sample
            and gets below that is on its way.
        ahead: The same where the copy is trained on more samples of the batch, to see whether two
            are too few for this model.
        fall: Share of the first loss; a copy whose loss falls below it is on its way.
        arms: Fewest learning rates to have tried.
        steps: Fewest steps that a training must have made, unless its loss was not finite.
        wait: Updates of the run before it is told: what causes it is told first.
        window: Last steps of the training with the lowest loss;
        slope: if it loses more than this share of it there, it is on its way.
        patience: Experiments in a row.
    """

    fix = (
        "Print shapes and values between output and loss for these two samples: look for an output"
        " activation that cannot reach the targets, a reshape or slice that mixes samples up,"
        " detach() or .data on the way, and a loss for another task."
    )
    severity = Severity.ERROR
    symptom_of = (
        "non-finite-input",
        "unregistered-module",
        "gradients-not-cleared",
        *NO_WAY_BACK,
        "wrong-gradient",
        *NO_WAY_THROUGH,
        "weight-init-scale",
        "ignores-input",
        "batch-mixing",
        "constant-input",
        "input-not-normalized",
        "loss-task-mismatch",
        "not-log-probabilities",
        "probabilities-as-logits",
        "target-broadcast",
        "constant-loss-terms",
        "regularization-dominates",
        "module-in-eval-mode",
        "precision-underflow",
    )

    share: float = 0.5
    some: float = 0.2
    below: float = 0.95
    ahead: float = 0.15
    fall: float = 0.1
    arms: int = 2
    steps: int = 40
    wait: int = 9
    window: int = 20
    slope: float = 0.02

    _found: list[Finding] = field(default_factory=list, init=False, repr=False)

    def on_overfit(self, obs: Overfit) -> Iterator[Finding]:
        """Compare what was learned with what a constant knows."""
        self._found = list(self._judge(obs))
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Tell of it once the first looks have had a chance to tell why."""
        if obs.step >= self.wait:
            yield from self._tell()

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Tell of it at the latest now."""
        yield from self._tell()

    def _tell(self) -> Iterator[Finding]:
        found, self._found = self._found, []
        yield from found

    def _judge(self, obs: Overfit) -> Iterator[Finding]:
        if len(obs.arms) < self.arms or not all(map(self._fails, obs.arms)):
            return
        several = obs.many > obs.samples
        share = self.some if several else self.share
        goal = obs.chance + share * (1.0 - obs.chance)
        if not obs.whole or any(arm.score >= goal for arm in obs.arms):
            return
        lowest = min(min(arm.losses) for arm in obs.arms)
        if several and lowest < self.below * obs.constant:
            return
        ahead = obs.wider_chance + self.ahead * (1.0 - obs.wider_chance)
        if any(arm.solved or arm.score >= ahead for arm in obs.wider):
            return
        if self._falls(min(obs.arms, key=_end)):
            return
        best = max(obs.arms, key=lambda arm: arm.score)
        many = "one sample" if obs.samples == 1 else f"{obs.samples} samples"
        factors = sorted(arm.factor for arm in obs.arms)
        message = (
            f"Trained on {many} alone, without regularization, a copy of the model gets an"
            f" {obs.metric} of {best.score:.2g} in {len(best.losses)} steps; a constant gets"
            f" {obs.chance:.2g}, and a sound model 1. The loss goes from {best.losses[0]:.3g} to"
            f" {best.losses[-1]:.3g}. {len(factors)} learning rates were tried, from"
            f" {factors[0]:g} to {factors[-1]:g} times yours.{_still(best)}"
        )
        yield self.finding(
            obs,
            message,
            where=obs.place,
            function=obs.function,
            score=best.score,
            chance=obs.chance,
            first=best.losses[0],
            last=best.losses[-1],
            steps=float(len(best.losses)),
            seconds=obs.seconds,
            unmoved=", ".join(best.still[:6]),
        )

    def _fails(self, arm: OverfitArm) -> bool:
        if arm.solved or not arm.losses:
            return False
        first, last = arm.losses[0], min(arm.losses)
        if 0.0 <= last <= self.fall * first:
            return False
        return len(arm.losses) >= self.steps or not math.isfinite(arm.losses[-1])

    def _falls(self, arm: OverfitArm) -> bool:
        """Tell whether the loss was still coming down when the training ended."""
        recent = arm.losses[-self.window :]
        return recent[-1] < recent[0] - self.slope * abs(recent[0])


def _end(arm: OverfitArm) -> float:
    return arm.losses[-1] if math.isfinite(arm.losses[-1]) else math.inf


def _still(arm: OverfitArm) -> str:
    if not arm.still:
        return ""
    more = f" and {len(arm.still) - 3} more" if len(arm.still) > 3 else ""
    return f" No step moved {', '.join(arm.still[:3])}{more}."
