"""Modules that are trained in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import ModePart, Modes
from lightning_debug.wording import listed


@dataclass(kw_only=True)
class ModuleInEvalMode(Check):
    """A part of the model is trained in eval mode, and its dropout or batch norm is off.

    Why: dropout does not regularise, and batch norm normalises by statistics that nobody updates.
    Lightning puts no module into train mode before it trains: one that was handed over in eval
    mode, as ``from_pretrained`` does, or that ``self.eval()`` has left there, stays there.

    Silent when: no dropout or batch norm in it does anything else in train mode; it also runs in
    train mode in the same step (self-evaluation, adversarial examples); gradients are off
    (teachers). Only said as information: what is frozen, batch norms and dropouts alone, and what
    a ``train()`` method of the user's own decides.

    Args:
        shown: Most dropouts or batch norms that a message lists.
        patience: Looks in a row.
    """

    fix = (
        "Call model.train() before trainer.fit(model), and self.train() after each self.eval();"
        " evaluate in validation_step, where Lightning does both."
    )

    shown: int = 3
    patience: int = 2

    def on_modes(self, obs: Modes) -> Iterator[Finding]:
        """List the parts that ran in eval mode in a training step."""
        if obs.stage != "training":
            return
        wrong = [part for part in obs.parts if part.trained and not part.chosen]
        for part in wrong or obs.parts:
            place = part.place or "model"
            effects = []
            if part.dropouts:
                effects.append(f"dropout is off in {listed(part.dropouts, self.shown)}")
            if part.norms:
                effects.append(
                    "batch norm uses its running statistics in " + listed(part.norms, self.shown)
                )
            state = "is trained in eval mode" if wrong else "runs in eval mode in training"
            message = f"{place} ({part.kind}) {state}: {' and '.join(effects)}."
            yield self.finding(
                obs,
                message if wrong else f"{message} {_reason(part)}",
                where=place,
                severity=None if wrong else Severity.INFO,
                dropouts=float(len(part.dropouts)),
                norms=float(len(part.norms)),
            )


def _reason(part: ModePart) -> str:
    """Return why this may be meant."""
    if part.chosen:
        return "A train() method of your own decides so."
    if not part.weights:
        return "It holds no weight matrix, so it may be meant."
    return "Most of its weights are frozen, so it may be meant."
