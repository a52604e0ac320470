"""Parameters that backward never reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Connections,
    Gradients,
    Observation,
    ParameterGradient,
    RunEnd,
    Updates,
)
from lightning_debug.wording import CUTS


@dataclass(kw_only=True)
class NoGradient(Check):
    """A trainable parameter that an optimizer holds never gets a gradient.

    Why: it stays at its initial value for ever. Either its module is never used, or something
    between it and the loss cuts the graph.

    Silent when: it had a gradient at any earlier step (toggled GAN parts, stochastic depth,
    batches without positives), which takes ``patience`` looks to rule out; its module has not run
    yet, but may later (a stage that starts late, experts, heads by task), which takes
    ``idle_patience`` looks; something else than the optimizer keeps changing it (an average of
    the weights); gradients are cleared after backward (see weights-not-updated). At the end of a
    run, a module that has never run is told, unless a sibling in the same container ran instead.

    Args:
        patience: Looks in a row without any gradient.
        idle_patience: The same where the module itself does not run.
        looks: Looks that a run needs for its end to prove anything.
    """

    severity = Severity.ERROR
    fix = (
        "Remove .detach(), .data, .item(), .numpy(), argmax or torch.no_grad() on the way from"
        " this parameter to the loss, or freeze it on purpose with requires_grad_(False)."
    )

    patience: int = 15
    idle_patience: int = 40
    looks: int = 6
    _alive: set[str] = field(default_factory=set, init=False, repr=False)
    _idle: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _moved: set[str] = field(default_factory=set, init=False, repr=False)
    _cleared: set[str] = field(default_factory=set, init=False, repr=False)
    _backward: bool = field(default=True, init=False, repr=False)

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """Remember whether backward has run at all, and whose gradients were cleared after it."""
        self._backward = obs.backwards > 0
        self._cleared = {use.optimizer for use in obs.uses if use.cleared}
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters without a gradient."""
        self._alive |= {n for n, g in obs.parameters.items() if g.present or g.ever}
        missing = not self._backward or obs.optimizer in self._cleared
        if missing and not any(g.present for g in obs.parameters.values()):
            return
        for name, gradient in obs.parameters.items():
            if name in self._alive:
                self._idle.pop(name, None)
            elif gradient.executed:
                message = f"{name} is used in the forward pass but backward has never reached it"
                yield self.finding(obs, f"{message}{_end(gradient)}.", where=name)
            elif name in self._moved:
                self._idle.pop(name, None)
            else:
                if not gradient.routed:
                    self._idle[name] = self._idle.get(name, 0) + 1
                yield self._unused(obs, name, self.idle_patience)

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Remember what changes; without a gradient, it is not the optimizer that changes it."""
        self._moved |= {name for name, update in obs.parameters.items() if update.moved}
        yield from ()

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """List the parameters of modules that have never run."""
        if obs.completed:
            for name, looks in self._idle.items():
                if looks >= self.looks:
                    yield self._unused(obs, name, 1)

    def _unused(self, obs: Observation, name: str, patience: int) -> Finding:
        message = f"{name} is in the optimizer, but its module has never been used."
        fix = (
            "Use it in forward, or delete it; if it is meant to rest, freeze it with"
            " requires_grad_(False)."
        )
        return self.finding(obs, message, where=name, patience=patience, fix=fix)


def _end(gradient: ParameterGradient) -> str:
    """Say where the graph of a parameter ends."""
    if not gradient.cut:
        return ""
    where = f" at {gradient.cut_line}" if gradient.cut_line else ""
    place = f" in {gradient.cut_place}" if gradient.cut_place else ""
    return f": its output is cut off by {CUTS.get(gradient.cut, gradient.cut)}{where}{place}"
