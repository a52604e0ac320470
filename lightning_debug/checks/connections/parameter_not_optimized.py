"""Trainable parameters that no optimizer holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Connections, Gradients, RunStart, Stray


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
    _frozen: set[str] = field(default_factory=set, init=False, repr=False)
    _strays: dict[str, Stray] = field(default_factory=dict, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what was frozen when the optimizers were built."""
        self._frozen = {name for name, p in obs.parameters.items() if not p.trainable}
        yield from ()

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """Remember what optimizers hold that is no part of the model any more."""
        self._strays = dict(obs.strays)
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """List the parameters that no optimizer holds."""
        for name in obs.orphans:
            message = f"{name} is trainable and gets gradients, but it is in no optimizer."
            stray = self._strays.get(name)
            if name in self._frozen:
                message += (
                    " It was frozen when training started, and the optimizer was built without it."
                )
                yield self.finding(obs, message, where=name, fix=self._add)
            elif stray is not None:
                message += (
                    f" {stray.optimizer} holds a tensor of shape {stray.shape} that is not part of"
                    " the model: the layer was replaced after the optimizer was built."
                )
                yield self.finding(obs, message, where=name, held=str(stray.shape))
            else:
                yield self.finding(obs, message, where=name)

    _add = (
        "Call optimizer.add_param_group({'params': [...]}) where it is unfrozen, or hand all"
        " parameters to the optimizer from the start: frozen ones are skipped."
    )
