"""Units that start identical and stay so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Gradients, Updates


@dataclass(kw_only=True)
class SymmetricInit(Check):
    """All units of a layer are alike, get the same gradient, and so stay alike.

    Why: a layer of identical units is a layer of one unit. Constant or zero initial weights in
    two layers in a row never break the symmetry.

    Silent when: the gradients of the units differ (zero-initialised last layers, residual
    branches, LoRA B), because then the first update breaks the symmetry; frozen filters, norms
    and biases.

    Source: CS231n, Neural Networks Part 2, "pitfall: all zero initialization".

    Args:
        spread: Largest difference between units, relative to their size, that counts as none.
        gradient_spread: The same for their gradients; random biases alone do not break more.
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Initialise it at random: torch.nn.init.kaiming_normal_(layer.weight), or leave the"
        " default. Only the last layer of a branch may start at zero."
    )

    spread: float = 1e-3
    gradient_spread: float = 1e-2
    patience: int = 4
    _resting: bool = field(default=False, init=False, repr=False)

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Remember whether a warm-up still keeps every learning rate at 0."""
        self._resting = obs.resting
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the weights whose units and gradients are all alike."""
        if self._resting:
            return
        for name, gradient in obs.parameters.items():
            alike = gradient.unit_spread <= self.spread
            if alike and gradient.gradient_spread <= self.gradient_spread:
                message = (
                    f"All units of {name} started with the same weights and get the same gradient"
                    f" (norm {gradient.norm:.2g}), so they stay the same."
                )
                yield self.finding(obs, message, where=name, gradient=gradient.norm)
