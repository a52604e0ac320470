"""Initial weights of a size that no initialisation gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Activations, ParameterStart, RunStart


@dataclass(kw_only=True)
class WeightInitScale(Check):
    """Initial weights are orders of magnitude away from 1/sqrt(fan_in), and so are activations.

    Why: a layer keeps the size of its input if its weights are about 1/sqrt(fan_in). Far larger
    ones blow activations and gradients up, far smaller ones make them vanish. Memory that was
    never initialised (torch.empty) holds anything.

    Silent when: the weights are looked up (embeddings), pretrained, frozen, or start at zero; a
    normalisation or a sine follows (Fourier features); the layer's output is of a usual size all
    the same.

    Source: He et al., Delving Deep into Rectifiers (2015).

    Args:
        high: Largest healthy rms of a weight times sqrt(fan_in).
        low: Smallest healthy one.
        growth: Factor by which the layer has to change the size of its input as well.
        garbage: Magnitude that only uninitialised memory has.
    """

    fix = (
        "Use torch.nn.init.kaiming_normal_(weight, nonlinearity='relu') or the default of the"
        " layer; fill a parameter made with torch.empty before training."
    )

    high: float = 10.0
    low: float = 1e-3
    growth: float = 5.0
    garbage: float = 1e6
    _gains: dict[str, tuple[str, float]] = field(default_factory=dict, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Find garbage at once; remember unusual scales until the layers have run."""
        if obs.resumed:
            return
        for name, start in obs.parameters.items():
            if not start.trainable:
                continue
            if not math.isfinite(start.largest) or start.largest > self.garbage:
                message = (
                    f"{name} holds values up to {start.largest:.2g} before the first step:"
                    " memory that was never initialised."
                )
                yield self.finding(obs, message, where=name, largest=start.largest)
            elif self._unusual(start):
                self._gains[start.module] = name, start.rms * math.sqrt(start.fan_in)

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Compare the growth through each layer with the scale of its weights."""
        gains, self._gains = self._gains, {}
        for call in obs.modules:
            if call.place not in gains or call.integer_input or call.normalized:
                continue
            name, gain = gains.pop(call.place)
            growth = call.rms / call.input_rms if call.input_rms > 0 else math.nan
            if growth > self.growth if gain > 1 else growth < 1 / self.growth:
                message = (
                    f"The initial weights of {name} are {gain:.2g} / sqrt(fan_in) in rms; about 1"
                    f" is usual. Its layer turns an rms of {call.input_rms:.2g} into"
                    f" {call.rms:.2g}."
                )
                yield self.finding(obs, message, where=name, gain=gain, growth=growth)

    def _unusual(self, start: ParameterStart) -> bool:
        gain = start.rms * math.sqrt(start.fan_in)
        return start.fan_in > 1 and (gain > self.high or 0.0 < gain < self.low)
