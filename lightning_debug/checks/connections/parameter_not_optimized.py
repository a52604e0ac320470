"""Trainable parameters that no optimizer holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Gradients


@dataclass(kw_only=True)
class ParameterNotOptimized(Check):
    """A trainable parameter gets gradients, but no optimizer holds it and nothing changes it.

    Why: it stays at its initial value for ever, and its gradient piles up, because no zero_grad
    reaches it. Lightning says nothing.

    Silent when: it is frozen (requires_grad is False); it gets no gradient; something else
    changes it (a moving average, an optimizer of your own).

    Args:
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Hand it to the optimizer in configure_optimizers, such as"
        " torch.optim.AdamW(self.parameters()), after all layers are in place; or freeze it with"
        " requires_grad_(False)."
    )

    patience: int = 3

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters that no optimizer holds."""
        for name in obs.orphans:
            message = f"{name} is trainable and gets gradients, but it is in no optimizer."
            yield self.finding(obs, message, where=name)
