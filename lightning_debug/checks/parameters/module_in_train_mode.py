"""Modules that are validated in train mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Modes
from lightning_debug.wording import listed


@dataclass(kw_only=True)
class ModuleInTrainMode(Check):
    """Validation runs a part of the model in train mode, with dropout or batch statistics on.

    Why: dropout makes the validation metrics worse than the model is, and noisy; batch norm
    normalises by the validation batch and takes its statistics into the trained model. Lightning
    calls ``eval()`` before validation; something has called ``train()`` since.

    Silent when: nothing in it does anything else in eval mode; only dropout modules are on, or
    one input is sampled several times (Monte Carlo dropout); gradients are on (adapting to a
    task); it runs in eval mode too. Batch norms alone are only said as information.

    Args:
        shown: Most dropouts or batch norms that a message lists.
    """

    severity = Severity.ERROR
    fix = (
        "Remove .train() from the validation hooks and steps, and restore on_validation_model_eval"
        " if you have overridden it."
    )

    shown: int = 3

    def on_modes(self, obs: Modes) -> Iterator[Finding]:
        """List the parts that ran in train mode in a validation step."""
        if obs.stage != "validation":
            return
        for part in obs.parts:
            if not part.norms and (part.sampled or not part.weights):
                continue
            effects = []
            if part.dropouts:
                effects.append(f"dropout is on in {listed(part.dropouts, self.shown)}")
            if part.norms:
                effects.append(
                    "batch norm uses the statistics of the batch in "
                    + listed(part.norms, self.shown)
                )
            place = part.place or "model"
            yield self.finding(
                obs,
                f"{place} ({part.kind}) is validated in train mode: {' and '.join(effects)}.",
                where=place,
                severity=None if part.weights else Severity.INFO,
                dropouts=float(len(part.dropouts)),
                norms=float(len(part.norms)),
            )
