"""Weights that stay the same though the optimizer runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import ParameterUpdate, Updates


@dataclass(kw_only=True)
class WeightsNotUpdated(Check):
    """The optimizer runs and the gradient is there, but the weights do not change.

    Why: the part does not train, whatever the loss says. The learning rate is zero, the weights
    are overwritten after each step, or they were frozen after the optimizer was built.

    Silent when: a schedule starts at zero or has come down to it; a scaler refuses the step;
    gradients accumulate (only steps of the optimizer count); the gradient itself is zero.

    Args:
        patience: Looks in a row.
        warm_up: The same while a scheduler drives a learning rate that is zero.
    """

    severity = Severity.ERROR
    symptom_of = ("update-too-small", "zero-gradient", "no-gradient")
    fix = (
        "Check the learning rate of its group, whether something writes to the weights after"
        " optimizer.step(), and whether they were frozen after the optimizer was built."
    )

    patience: int = 5
    warm_up: int = 40
    _moved: set[str] = field(default_factory=set, init=False, repr=False)

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Look for gradients without a change, and for changes that do not last."""
        for name, update in obs.parameters.items():
            if update.lr > 0 and not update.trainable and update.changed == 0:
                continue  # frozen on purpose, or by mistake: nothing here tells which
            if update.changed and update.moved is False:
                message = (
                    f"Each step changes {name}, but before the next one it is what it was before:"
                    " something writes the old values back."
                )
                yield self.finding(obs, message, where=name, lr=update.lr)
            elif update.changed:
                self._moved.add(name)
            elif update.driven and not (update.scheduled and name in self._moved):
                patience = self.warm_up if update.scheduled and update.lr == 0 else 0
                message = self._explain(name, update)
                yield self.finding(obs, message, where=name, patience=patience, lr=update.lr)

    def _explain(self, name: str, update: ParameterUpdate) -> str:
        if update.lr == 0.0:
            return f"{name} has a gradient but never changes: its learning rate is 0."
        return f"{name} has a gradient but a step with learning rate {update.lr:.3g} leaves it as it is."
