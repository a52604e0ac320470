"""A loss that is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.cures import cure, describe
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Losses, NonFiniteBirth, Precision


@dataclass(kw_only=True)
class NonFiniteLoss(Check):
    """The loss is NaN or infinite, and one step with it ruins every weight.

    Why: the gradient of a loss that is no number is no number either, and the optimizer writes
    it into all weights. Lightning trains on without a word.

    Silent when: a gradient scaler refuses the step (16-mixed), unless no loss is finite any more:
    a smaller scale does not make a loss finite; and where the module that made the value is known:
    then non-finite-activation or non-finite-gradient names it.

    Args:
        stuck: Losses in a row that are not finite while a gradient scaler may refuse the steps.
    """

    severity = Severity.ERROR
    symptom_of = (
        "precision-underflow",
        "non-finite-activation",
        "non-finite-gradient",
        "exploding-gradient",
        "learning-rate-too-high",
        "update-too-large",
        "non-finite-input",
        "loss-reduction",
    )
    fix = (
        "Look at the loss itself: log(0), sqrt(0), 0/0, exp of a large number, a mean over no"
        " targets. Clamp the argument (x.clamp_min(1e-8)) or use the stable form"
        " (binary_cross_entropy_with_logits, log_softmax)."
    )

    stuck: int = 10
    _row: list[tuple[int, float]] = field(default_factory=list, init=False, repr=False)
    _scaled: bool = field(default=False, init=False, repr=False)
    _birth: NonFiniteBirth | None = field(default=None, init=False, repr=False)

    def on_non_finite_birth(self, obs: NonFiniteBirth) -> Iterator[Finding]:
        """Remember the operation that it comes from."""
        self._birth = obs
        yield from ()

    def on_precision(self, obs: Precision) -> Iterator[Finding]:
        """Remember that a gradient scaler may refuse steps, between two looks as well."""
        self._scaled = self._scaled or not math.isnan(obs.scale)
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Find the first loss that is not finite."""
        bad = self._broken(obs)
        if not bad:
            return
        step, value = bad[0]
        message = f"The loss is {value} from step {step} on."
        fix = self.fix
        where = "loss"
        if self._birth is not None and self._birth.step in (step, step - 1):
            message += describe(self._birth)
            fix, where = cure(self._birth), self._birth.place or "loss"
        elif obs.broken:
            message += (
                f" By now {len(obs.broken)} parameters are not finite, {obs.broken[0]} first."
            )
            fix = (
                "Run again with Trainer(detect_anomaly=True) to see which operation it comes from;"
                " lower the learning rate or clip gradients (Trainer(gradient_clip_val=1.0)) if the"
                " loss grew before."
            )
        elif obs.activations_finite:
            message += (
                " All modules gave finite values: the targets or the loss computation made it."
            )
        yield self.finding(obs, message, where=where, fix=fix, first_step=step)

    def _broken(self, obs: Losses) -> list[tuple[int, float]]:
        """Return the losses that are not finite, if a gradient scaler is not to blame."""
        for step, value in obs.values:
            if math.isfinite(value):
                self._row = []
            elif len(self._row) < self.stuck:
                self._row.append((step, value))
        if obs.skipped or (self._scaled and not obs.broken):
            return self._row if len(self._row) >= self.stuck else []
        return [(step, value) for step, value in obs.values if not math.isfinite(value)]
