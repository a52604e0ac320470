"""Parameters that backward never reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Gradients, ParameterGradient


@dataclass(kw_only=True)
class NoGradient(Check):
    """A trainable parameter that an optimizer holds never gets a gradient.

    Why: it stays at its initial value for ever. Either its module is never used, or something
    between it and the loss cuts the graph.

    Silent when: it had a gradient at any earlier step (toggled GAN parts, stochastic depth,
    batches without positives), which takes ``patience`` looks to rule out; a sibling in the same
    container ran instead (experts, heads by task), which takes ``routed_patience``.

    Args:
        patience: Looks in a row without any gradient.
        routed_patience: The same where a sibling ran instead.
    """

    severity = Severity.ERROR
    fix = (
        "Remove .detach(), .data, .item(), .numpy(), argmax or torch.no_grad() on the way from"
        " this parameter to the loss, or freeze it on purpose with requires_grad_(False)."
    )

    patience: int = 15
    routed_patience: int = 40
    _alive: set[str] = field(default_factory=set, init=False, repr=False)

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters without a gradient, by module."""
        self._alive |= {n for n, g in obs.parameters.items() if g.present or g.ever}
        silent = {n: g for n, g in obs.parameters.items() if n not in self._alive}
        for name, gradient in silent.items():
            yield self.finding(
                obs,
                self._explain(name, gradient),
                where=name,
                patience=self.routed_patience if gradient.routed else 0,
                fix=self.fix if gradient.executed else self._unused,
            )

    _unused = (
        "Use it in forward, or delete it; if it is meant to rest, freeze it with"
        " requires_grad_(False)."
    )

    def _explain(self, name: str, gradient: ParameterGradient) -> str:
        if gradient.executed:
            return f"{name} is used in the forward pass but backward has never reached it."
        return f"{name} is in the optimizer, but its module has never been used."
