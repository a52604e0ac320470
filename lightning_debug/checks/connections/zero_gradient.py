"""Gradients that are exactly zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Gradients


@dataclass(kw_only=True)
class ZeroGradient(Check):
    """A parameter gets a gradient, and it is exactly zero, update after update.

    Why: it does not learn. Something multiplies by zero on the way back: dead units, two
    zero-initialised layers in a row, a clamped loss, a softmax over one value.

    Silent when: only some rows are zero (padding, lookup tables); the first updates of
    zero-initialised branches (LoRA, ReZero), whose gradient comes with the first update; the
    loss is exactly zero, as hinge losses are when all is well.

    Args:
        patience: Looks in a row with nothing but zeros.
    """

    severity = Severity.ERROR
    symptom_of = ("symmetric-init", "dead-relu", "saturated-activation", "activation-collapse")
    fix = (
        "Look between this parameter and the loss for zero-initialised weights in a row (make one"
        " of them random), clamp() on the loss, dead units, or softmax over a single value."
    )

    patience: int = 6

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters whose gradient holds only zeros."""
        if obs.loss == 0.0:
            return
        for name, gradient in obs.parameters.items():
            if gradient.present and gradient.largest == 0.0 and gradient.executed:
                message = f"The gradient of {name} is exactly 0 in all elements."
                yield self.finding(obs, message, where=name)
