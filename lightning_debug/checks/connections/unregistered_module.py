"""Weights that the model uses and does not know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Connections, Stranger


@dataclass(kw_only=True)
class UnregisteredModule(Check):
    """A layer or parameter that the training step uses is not registered in the model.

    Why: what lies in a Python list or dict, in an object that is no module, or is built in the
    forward pass, is not among parameters(): no optimizer trains it, it is not moved to the
    device, and no checkpoint holds it. Nothing complains.

    Silent when: it is frozen, runs without gradients, or was put in eval mode (helper networks
    that are hidden on purpose); something changes its values (a moving average, an update by
    hand); it is a copy of a registered part, made for the step (inner loops of meta-learning);
    it has no weights; it is no ``nn.Parameter`` (latents, adversarial inputs). Where an optimizer
    of your own trains it, that it is not saved is a warning.

    Args:
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Build it in __init__ and hold it where PyTorch sees it: as an attribute of an nn.Module,"
        " in nn.ModuleList([...]), nn.ModuleDict({...}) or nn.ParameterList([...])."
    )

    patience: int = 3

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """List the strangers that nobody trains, and those that only an optimizer knows."""
        for stranger in obs.strangers:
            if stranger.copied or stranger.resting:
                continue
            if stranger.anew:
                yield from self._rebuilt(obs, stranger)
            elif stranger.optimizer:
                message = (
                    f"{stranger.where} is trained by {stranger.optimizer}, but it is not registered"
                    f" in the model{_used(stranger)}: it is not moved to the device, and not saved"
                    " in checkpoints."
                )
                yield self._tell(obs, stranger, message, Severity.WARNING)
            elif stranger.moved is False and stranger.gradient:
                message = (
                    f"{stranger.where} is used in the forward pass{_used(stranger)} and gets a"
                    " gradient, but it is not registered in the model: it is not among"
                    " parameters(), and its values do not change from update to update."
                )
                yield self._tell(obs, stranger, message, Severity.ERROR)

    def _rebuilt(self, obs: Connections, stranger: Stranger) -> Iterator[Finding]:
        if stranger.adapted or stranger.optimizer or not stranger.gradient:
            return
        message = (
            f"{stranger.where} is built anew in each training step{_used(stranger)}: its weights"
            " are random again each time, and nothing is learned in them."
        )
        yield self._tell(obs, stranger, message, Severity.ERROR)

    def _tell(
        self, obs: Connections, stranger: Stranger, message: str, severity: Severity
    ) -> Finding:
        return self.finding(
            obs,
            message,
            where=stranger.where,
            severity=severity,
            kind=stranger.kind,
            module=stranger.place or "training_step",
            line=stranger.line,
        )


def _used(stranger: Stranger) -> str:
    return f" ({stranger.line})" if stranger.line else ""
