"""Gradients that are exactly zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import BY_UPDATES, Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Connections, Gradients, Updates, owner

# A sigmoid before a loss that has its own is driven into its flat ends.
IN_TIME = (*BY_UPDATES, "probabilities-as-logits")


@dataclass(kw_only=True)
class ZeroGradient(Check):
    """A parameter gets a gradient, and it is exactly zero, update after update.

    Why: it does not learn. Something multiplies by zero on the way back: dead units, two
    zero-initialised layers in a row, a clamped loss, a softmax over one value.

    Silent when: only some rows are zero (padding, lookup tables); the first updates of
    zero-initialised branches (LoRA, ReZero), whose gradient comes with the first update, however
    long a warm-up keeps that away; the loss is exactly zero, as hinge losses are when all is
    well, or a term of it was multiplied by zero on purpose (a weight that starts at 0); a
    vector beside a matrix that gets its gradient (a bias that the loss does not see: the critic
    of a WGAN, ranking losses); all gradients of one of several optimizers are zero (a part
    whose loss is switched on later); they are set to zero after backward (see
    weights-not-updated).

    Args:
        patience: Looks in a row with nothing but zeros.
    """

    severity = Severity.ERROR
    symptom_of = (
        "precision-underflow",
        "symmetric-init",
        "learning-rate-too-high",
        "update-too-large",
        "exploding-gradient",
        "dead-relu",
        "saturated-activation",
        "activation-collapse",
        "constant-input",
        "ignores-input",
        "input-not-normalized",
        "loss-task-mismatch",
        "probabilities-as-logits",
    )
    fix = (
        "Look between this parameter and the loss for zero-initialised weights in a row (make one"
        " of them random), clamp() on the loss, dead units, or softmax over a single value."
    )

    patience: int = 8

    _driven: set[str] = field(default_factory=set, init=False, repr=False)
    _alive: set[str] = field(default_factory=set, init=False, repr=False)

    _born: set[str] = field(default_factory=set, init=False, repr=False)
    _looked: set[str] = field(default_factory=set, init=False, repr=False)
    _cleared: set[str] = field(default_factory=set, init=False, repr=False)
    _killed: bool = field(default=False, init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Leave out what takes updates, where the gradient has been zero from the first on."""
        return tuple(n for n in self.symptom_of if self._killed or n not in IN_TIME)

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """Remember whose gradients were set to zero after backward."""
        self._cleared = {use.optimizer for use in obs.uses if use.cleared}
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Remember whether the optimizer had a learning rate yet."""
        if any(update.lr != 0.0 for update in obs.parameters.values()):
            self._driven.add(obs.optimizer)
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters whose gradient holds only zeros."""
        present = {name: g for name, g in obs.parameters.items() if g.present}
        reached = {name for name, g in present.items() if g.largest > 0.0}
        if obs.optimizer not in self._looked:
            self._looked.add(obs.optimizer)
            self._born |= present.keys() - reached
        if reached:
            self._alive.add(obs.optimizer)
        elif self._alive - {obs.optimizer}:
            return
        cleared = obs.optimizer in self._cleared and not reached
        if cleared or obs.loss == 0.0 or obs.muted or obs.optimizer not in self._driven:
            return
        beside = {owner(name) for name in reached if present[name].dims > 1}
        for name, gradient in present.items():
            redundant = gradient.dims == 1 and owner(name) in beside
            if gradient.largest == 0.0 and gradient.executed and not redundant:
                self._killed = self._killed or name not in self._born
                message = f"The gradient of {name} is exactly 0 in all elements."
                yield self.finding(obs, message, where=name)
