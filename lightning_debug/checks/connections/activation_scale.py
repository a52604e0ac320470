"""Activations that grow or shrink with depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Activations
from lightning_debug.trend import trend


@dataclass(kw_only=True)
class ActivationScale(Check):
    """The size of activations grows or shrinks by orders of magnitude from layer to layer.

    Why: gradients do the same on the way back. Growing values end in overflow, shrinking ones in
    outputs that do not depend on the input.

    Silent when: single layers differ (heads, small branches), because a trend over the layers in
    order of execution is asked for; a normalisation brings the scale back.

    Args:
        decades: Change over the depth of the network, as a power of ten.
        correlation: Smallest correlation with depth that counts as a trend.
        layers: Fewest layers that have a depth.
        patience: Looks in a row.
    """

    symptom_of = (
        "weight-init-scale",
        "learning-rate-too-high",
        "update-too-large",
        "exploding-gradient",
        "input-not-normalized",
    )
    fix = (
        "Match the initialisation to the activation (torch.nn.init.kaiming_normal_ for ReLU,"
        " xavier_uniform_ for tanh), or add normalisation layers or residual connections."
    )

    decades: float = 3.0
    correlation: float = 0.8
    layers: int = 5
    patience: int = 5

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Fit a line through the logarithms of the sizes of hidden layers."""
        hidden = [c for c in obs.modules if c.parametric and not c.head and c.trained and c.rms > 0]
        line = trend([call.rms for call in hidden])
        if len(hidden) < self.layers or line is None:
            return
        if abs(line.rise) >= self.decades and abs(line.correlation) >= self.correlation:
            first, last = hidden[0], hidden[-1]
            verb = "grows" if line.rise > 0 else "shrinks"
            message = (
                f"The rms of the activations {verb} from {first.rms:.1e} at {first.place} to"
                f" {last.rms:.1e} at {last.place}, over {len(hidden)} layers."
            )
            yield self.finding(obs, message, where=last.place, first=first.rms, last=last.rms)
