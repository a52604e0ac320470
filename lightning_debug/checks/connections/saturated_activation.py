"""Squashing functions that are pinned at their bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Activations


@dataclass(kw_only=True)
class SaturatedActivation(Check):
    """Nearly all values of a hidden sigmoid or tanh sit at its bounds, where the slope is zero.

    Why: at |tanh| > 0.99 less than 2 % of the gradient comes through, so what lies below learns
    next to nothing.

    Silent when: the function is an output (nothing with weights uses it, or a loss holds it
    against a target), a gate (it multiplies another tensor, as in LSTM, GRU and attention), or
    frozen; only some values are pinned.

    Args:
        share: Smallest share of pinned values (|tanh| above 0.99, sigmoid outside 0.01 to 0.99).
        patience: Looks in a row.
    """

    symptom_of = (
        "learning-rate-too-high",
        "update-too-large",
        "exploding-gradient",
        "weight-init-scale",
        "initial-loss",
        "input-not-normalized",
    )
    fix = (
        "Normalise the inputs and start with smaller weights (torch.nn.init.xavier_uniform_), put"
        " a normalisation layer before the function, or use ReLU."
    )

    share: float = 0.9
    patience: int = 5

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Compare the share of pinned values of each squashing function."""
        for call in obs.nonlinear:
            output = call.head or call.compared
            if call.kind == "relu" or output or call.gate or not call.trained:
                continue
            if call.saturated_share >= self.share:
                message = (
                    f"{call.saturated_share:.0%} of the values of {call.place} ({call.kind}) are"
                    " pinned at its bounds."
                )
                yield self.finding(obs, message, where=call.place, share=call.saturated_share)
