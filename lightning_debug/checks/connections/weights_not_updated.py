"""Weights that stay the same though the optimizer runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Connections,
    Gradients,
    Losses,
    Observation,
    ParameterUpdate,
    Precision,
    RunEnd,
    RunStart,
    Updates,
    owner,
)


@dataclass(kw_only=True)
class WeightsNotUpdated(Check):
    """The optimizer runs and the gradient is there, but the weights do not change.

    Why: the part does not train, whatever the loss says. The learning rate is zero, the weights
    are overwritten after each step, they were frozen after the optimizer was built, or zero_grad()
    comes between backward and the step.

    Silent when: steps changed them before (a schedule that has come down to zero, a training
    that has converged to the last digit); a scheduler that starts at zero has not had an epoch
    to raise the rate; a scaler refuses the step; gradients accumulate (only steps of the
    optimizer count); the gradient itself is zero, or, of a bias, nothing but the rounding
    errors of that of the weight beside it (before a batch norm, or in the keys of an attention);
    a part is frozen, unless it was in training when the run was interrupted; few weights are
    reset (a head, a padding row), clamped, pruned, averaged or loaded once; the step is too small
    for a format of 16 bits (see precision-underflow).

    Args:
        patience: Looks in a row.
        idle_patience: The same for an optimizer that makes no step while others do.
        batches: Fewest batches of a run after which an optimizer should have made a step.
        rewrites: Epochs in a row that start with other weights than the one before had ended with.
        share: Share of the weight matrices that have to be rewritten.
        rounding: Gradient of a bias, as a share of that of the weight beside it, below which it
            is taken for rounding errors.
    """

    severity = Severity.ERROR
    symptom_of = (
        "precision-underflow",
        "vanishing-gradient",
        "activation-collapse",
        "scheduler-misconfigured",
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
    rewrites: int = 2
    share: float = 0.5
    rounding: float = 1e-5
    _noise: set[str] = field(default_factory=set, init=False, repr=False)
    _cleared: set[str] = field(default_factory=set, init=False, repr=False)
    _moved: set[str] = field(default_factory=set, init=False, repr=False)
    _changed: set[str] = field(default_factory=set, init=False, repr=False)
    _rates: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _waiting: dict[str, ParameterUpdate] = field(default_factory=dict, init=False, repr=False)
    _first_epoch: int = field(default=-1, init=False, repr=False)
    _held: str = field(default="", init=False, repr=False)
    _resumed: bool = field(default=False, init=False, repr=False)
    _backward: bool = field(default=False, init=False, repr=False)
    _trained: set[str] = field(default_factory=set, init=False, repr=False)
    _drawn: int = field(default=0, init=False, repr=False)
    _restored: int = field(default=0, init=False, repr=False)
    _rounded: set[str] = field(default_factory=set, init=False, repr=False)
    _batches: int = field(default=0, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember whether there is anything to train."""
        self._resumed = obs.resumed
        self._held = next(
            (p.optimizer for p in obs.parameters.values() if p.trainable and p.optimizer), ""
        )
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Count the batches."""
        self._batches += len(obs.values)
        yield from ()

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """Look for steps without a gradient, and for weights rewritten between epochs."""
        self._backward = self._backward or obs.backwards > 0
        self._cleared = {use.optimizer for use in obs.uses if use.cleared}
        if not self._backward:
            for use in obs.uses:
                if use.empty:
                    message = (
                        f"{use.optimizer} makes steps without a gradient: backward has never run,"
                        " because training_step returns no loss."
                    )
                    fix = "Return the loss from training_step: return loss."
                    yield self.finding(obs, message, where=use.optimizer, fix=fix)
        for rewrite in obs.rewrites:
            self._drawn = self._drawn + 1 if rewrite.drawn > self.share else 0
            self._restored = self._restored + 1 if rewrite.restored > self.share else 0
            if max(self._drawn, self._restored) < self.rewrites:
                continue
            what = "are not correlated with those that the epoch before had ended with"
            if self._restored > self._drawn:
                what = "are exactly those that training had started with"
            share = rewrite.restored if self._restored > self._drawn else rewrite.drawn
            message = (
                f"Epoch {rewrite.epoch} starts with weights that {what} ({share:.0%} of the weight"
                " matrices), and so did the one before it: something that is no optimizer writes"
                " new values, and what was learned is lost."
            )
            yield self.finding(
                obs, message, where="epoch start", patience=1, fix=self._once, share=share
            )

    _order = (
        "Call zero_grad() before backward or after optimizer.step(), not between the two; look in"
        " on_after_backward, on_before_optimizer_step and training_step."
    )
    _once = (
        "Initialise or load the weights once, in __init__ or setup(), and not in a hook that runs"
        " every epoch."
    )

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """Look for gradients that are gone, and parameters whose optimizer does not step."""
        self._held = ""
        used = any(g.present and g.largest > 0.0 for g in obs.parameters.values())
        if obs.optimizer in self._cleared and not used:
            message = (
                f"{obs.optimizer} makes steps without a gradient: backward gives one to its"
                " parameters, and it is cleared before the step."
            )
            yield self.finding(obs, message, where=obs.optimizer, fix=self._order)
        self._noise = self._noise - obs.parameters.keys() | self._rounding_errors(obs)
        for name, optimizer in obs.waiting.items():
            message = (
                f"{name} has a gradient, and {optimizer} holds it, but that optimizer has not made"
                " a single step."
            )
            yield self.finding(
                obs, message, where=name, patience=self.idle_patience, fix=self._step
            )

    _thaw = (
        "Unfreeze it when training is resumed: call requires_grad_(True) in on_train_start where"
        " current_epoch is past the epoch of the unfreezing. If it is meant to stay frozen, ignore"
        " this."
    )
    _step = "Call step() of this optimizer in training_step, after manual_backward."

    def on_precision(self, obs: Precision) -> Iterator[Finding]:
        """Leave out what rounds to what it was: a step in 32 bits would have moved it."""
        for name, parameter in obs.parameters.items():
            (self._rounded.add if parameter.rounded else self._rounded.discard)(name)
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Look for gradients without a change, and for changes that do not last."""
        if self._first_epoch < 0:
            self._first_epoch = obs.epoch
        for name, update in obs.parameters.items():
            self._trained |= {name} if update.trainable else set()
            if update.lr > 0 and not update.trainable and update.changed == 0:
                # On purpose, or by mistake: mostly, nothing here tells which.
                if self._resumed and update.stateful and name not in self._trained:
                    message = (
                        f"{name} was trained before the checkpoint and is frozen since training was"
                        f" resumed: the optimizer holds it at learning rate {update.lr:.3g}, with"
                        " state from earlier steps, but it asks for no gradient."
                    )
                    warning = Severity.WARNING
                    yield self.finding(obs, message, where=name, severity=warning, fix=self._thaw)
                continue
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
            elif update.driven and name not in self._moved | self._rounded | self._noise:
                rising = update.lr > self._rates.get(name, math.inf)
                self._rates[name] = update.lr
                early = update.lr == 0 and obs.epoch == self._first_epoch
                if update.scheduled and (rising or early):
                    self._waiting[name] = update
                    continue
                yield self._stuck(obs, name, update)

    def _rounding_errors(self, obs: Gradients) -> set[str]:
        """Return the vectors whose gradient is next to nothing beside that of their matrix."""
        matrices: dict[str, float] = {}
        for name, gradient in obs.parameters.items():
            if gradient.dims > 1 and gradient.finite:
                matrices[owner(name)] = max(matrices.get(owner(name), 0.0), gradient.norm)
        return {
            name
            for name, gradient in obs.parameters.items()
            if gradient.dims == 1 and gradient.norm < self.rounding * matrices.get(owner(name), 0.0)
        }

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
