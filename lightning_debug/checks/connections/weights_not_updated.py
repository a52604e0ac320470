"""Weights that stay the same though the optimizer runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Gradients,
    Losses,
    Observation,
    ParameterUpdate,
    RunEnd,
    RunStart,
    Updates,
)


@dataclass(kw_only=True)
class WeightsNotUpdated(Check):
    """The optimizer runs and the gradient is there, but the weights do not change.

    Why: the part does not train, whatever the loss says. The learning rate is zero, the weights
    are overwritten after each step, or they were frozen after the optimizer was built.

    Silent when: steps changed them before (a schedule that has come down to zero, a training
    that has converged to the last digit); a scheduler that starts at zero has not had an epoch
    to raise the rate; a scaler refuses the step; gradients accumulate (only steps of the
    optimizer count); the gradient itself is zero.

    Args:
        patience: Looks in a row.
        idle_patience: The same for an optimizer that makes no step while others do.
        batches: Fewest batches of a run after which an optimizer should have made a step.
    """

    severity = Severity.ERROR
    symptom_of = (
        "vanishing-gradient",
        "activation-collapse",
        "update-too-small",
        "zero-gradient",
        "no-gradient",
        "constant-input",
    )
    fix = (
        "Check the learning rate of its group, whether something writes to the weights after"
        " optimizer.step(), and whether they were frozen after the optimizer was built."
    )

    patience: int = 5
    idle_patience: int = 15
    batches: int = 20
    _moved: set[str] = field(default_factory=set, init=False, repr=False)
    _changed: set[str] = field(default_factory=set, init=False, repr=False)
    _rates: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _waiting: dict[str, ParameterUpdate] = field(default_factory=dict, init=False, repr=False)
    _first_epoch: int = field(default=-1, init=False, repr=False)
    _held: str = field(default="", init=False, repr=False)
    _batches: int = field(default=0, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember whether there is anything to train."""
        self._held = next(
            (p.optimizer for p in obs.parameters.values() if p.trainable and p.optimizer), ""
        )
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Count the batches."""
        self._batches += len(obs.values)
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters whose optimizer does not step."""
        self._held = ""
        for name, optimizer in obs.waiting.items():
            message = (
                f"{name} has a gradient, and {optimizer} holds it, but that optimizer has not made"
                " a single step."
            )
            yield self.finding(
                obs, message, where=name, patience=self.idle_patience, fix=self._step
            )

    _step = "Call step() of this optimizer in training_step, after manual_backward."

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Look for gradients without a change, and for changes that do not last."""
        if self._first_epoch < 0:
            self._first_epoch = obs.epoch
        for name, update in obs.parameters.items():
            if update.lr > 0 and not update.trainable and update.changed == 0:
                continue  # frozen on purpose, or by mistake: nothing here tells which
            changed_before = name in self._changed
            self._changed.discard(name)
            self._changed |= {name} if update.changed else set()
            if update.changed and update.moved is False and changed_before:
                message = (
                    f"Each step changes {name}, but before the next one it is what it was before:"
                    " something writes the old values back."
                )
                yield self.finding(obs, message, where=name, lr=update.lr)
            elif update.changed:
                self._moved.add(name)
                self._waiting.pop(name, None)
            elif update.driven and name not in self._moved:
                rising = update.lr > self._rates.get(name, math.inf)
                self._rates[name] = update.lr
                early = update.lr == 0 and obs.epoch == self._first_epoch
                if update.scheduled and (rising or early):
                    self._waiting[name] = update
                    continue
                yield self._stuck(obs, name, update)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Tell what the whole run has not changed."""
        if obs.completed and self._held and self._batches >= self.batches:
            message = f"{self._held} has not made a single step in {self._batches} batches."
            yield self.finding(obs, message, where=self._held, patience=1, fix=self._step)
        if obs.completed and obs.step > self.patience:
            for name, update in self._waiting.items():
                yield self._stuck(obs, name, update)

    def _stuck(self, obs: Observation, name: str, update: ParameterUpdate) -> Finding:
        message = f"{name} has a gradient but has never changed: its learning rate is 0."
        if update.lr != 0.0:
            rate = f"a step with learning rate {update.lr:.3g}"
            message = f"{name} has a gradient but {rate} leaves it as it is."
        # The session counts looks; the end of the run comes once.
        patience = 1 if isinstance(obs, RunEnd) else 0
        return self.finding(obs, message, where=name, patience=patience, lr=update.lr)
