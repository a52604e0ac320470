"""Gradients of several batches that are added up where their mean is meant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Connections, GradientUse


@dataclass(kw_only=True)
class AccumulationNotScaled(Check):
    """Manual accumulation adds up the gradients of N batches and divides by nothing.

    Why: the step is N times as large as the one that a batch N times as large would make, so the
    learning rate is N times what it says. Lightning divides only in automatic optimization.

    Silent when: the loss is multiplied or divided by anything before backward; it is a sum over
    the batch; the gradients are scaled or clipped before the step; each step has the gradients of
    one batch, in however many losses; other optimizers step in between (a part that steps rarely
    on purpose). Whether the learning rate was divided by N instead cannot be seen.

    Args:
        steps: Steps of an optimizer in a row.
        rounding: Distance of a factor from 1 that counts as none.
    """

    symptom_of = ("gradients-not-cleared",)
    fix = (
        "Divide the loss: self.manual_backward(loss / n), with n the number of batches for one"
        " step. If the learning rate is meant for the sum, ignore this."
    )

    steps: int = 3
    rounding: float = 1e-3
    _batches: dict[str, list[int]] = field(
        default_factory=lambda: defaultdict(list), init=False, repr=False
    )

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """Count the steps that used the sum of several batches."""
        for use in obs.uses:
            batches = self._batches[use.optimizer]
            if not self._is_sum(use):
                batches.clear()
                continue
            batches.append(use.batches)
            if len(batches) >= self.steps:
                # Where not every batch is looked at, fewer are seen than there were.
                several = max(batches)
                message = (
                    f"Each step of {use.optimizer} uses the gradients of {several} batches added"
                    f" up, undivided: it is {several} times as large as that of the mean."
                )
                yield self.finding(
                    obs, message, where=use.optimizer, batches=several, factor=use.factor
                )

    def _is_sum(self, use: GradientUse) -> bool:
        plain = bool(use.weights) and all(abs(w - 1.0) < self.rounding for w in use.weights)
        undivided = plain and not use.scaled and abs(use.factor - 1.0) < self.rounding
        return undivided and use.batches > 1 and use.alone and not (use.again or use.summed)
