"""Gradients that shrink on their way to the first layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Gradients
from lightning_debug.trend import relative_gradients, trend


@dataclass(kw_only=True)
class VanishingGradient(Check):
    """The gradient shrinks by orders of magnitude from the last layers to the first.

    Why: backpropagation multiplies one factor for each layer. Where the factors are below one,
    the weights near the input hardly move and only the last layers learn.

    Silent when: the whole network is near a minimum, because layers are compared within one step
    and relative to their weights; single layers differ (heads, embeddings, frozen parts), because
    a trend over the layers in order of execution is asked for.

    Args:
        decades: Fall of gradient over weight from the last to the first layer, as a power of ten.
        correlation: Smallest correlation with depth that counts as a trend.
        layers: Fewest weight matrices that have a depth.
        patience: Looks in a row.
    """

    symptom_of = (
        "precision-underflow",
        "dead-relu",
        "saturated-activation",
        "symmetric-init",
        "weight-init-scale",
        "input-not-normalized",
        "constant-input",
        "learning-rate-too-high",
    )
    fix = (
        "Use ReLU-like activations with torch.nn.init.kaiming_normal_, residual connections, or"
        " a normalisation layer in each block."
    )

    decades: float = 4.0
    correlation: float = 0.7
    layers: int = 4
    patience: int = 6

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """Fit a line through the logarithms of the relative gradients."""
        values = relative_gradients(obs)
        line = trend(list(values.values()))
        if len(values) < self.layers or line is None:
            return
        if line.rise >= self.decades and line.correlation >= self.correlation:
            first, *_, last = values
            message = (
                f"The gradient over the weight is {values[first]:.1e} at {first} but"
                f" {values[last]:.1e} at {last}: it shrinks by 10^{line.rise:.1f} over"
                f" {len(values)} layers."
            )
            yield self.finding(obs, message, where=first, first=values[first], last=values[last])
