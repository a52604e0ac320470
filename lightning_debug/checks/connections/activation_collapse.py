"""Layers that say the same whatever the sample is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Activations


@dataclass(kw_only=True)
class ActivationCollapse(Check):
    """A layer gives the same output for every sample, though its input differs.

    Why: whatever comes after it cannot tell samples apart, so the network can learn no more than
    the mean of the targets.

    Silent when: the input does not differ either, or the module only asks for its shape (class
    tokens, position tables, learned queries); heads and zero-initialised branches before the
    first updates; batches of fewer than four samples.

    Args:
        spread: Largest standard deviation over the samples, relative to the rms, that counts as
            the same.
        alive: Spread that an earlier layer has to have had: a long chain loses it bit by bit.
        patience: Looks in a row.
    """

    symptom_of = (
        "dead-relu",
        "saturated-activation",
        "symmetric-init",
        "vanishing-gradient",
        "weight-init-scale",
        "update-too-large",
        "exploding-gradient",
    )
    fix = (
        "Look at this layer: dead units before it, softmax over one value, a mean over the batch"
        " axis, zero weights; in very deep plain networks add residual connections or norms."
    )

    spread: float = 1e-5
    alive: float = 1e-3
    patience: int = 8
    _faded: str = field(default="", init=False, repr=False)

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Find the modules between a varying input and a constant output."""
        before, widest, faded = "", 0.0, ""
        for call in obs.modules:
            if call.input_spread > widest:
                before, widest = call.place, call.input_spread
            if not (call.trained and call.reads_input):
                continue
            message = (
                f"{call.place} ({call.kind}) gives the same output for every sample (relative"
                f" spread {call.spread:.1e})"
            )
            if call.spread <= self.spread < call.input_spread / 10:
                message += f"; its input has a spread of {call.input_spread:.1e}."
                yield self.finding(obs, message, where=call.place, spread=call.spread)
            elif call.spread <= self.spread < call.input_spread and widest >= self.alive:
                # Where exactly a long chain falls below the line changes from look to look.
                faded = faded or self._faded or call.place
                message += f"; what enters {before} has one of {widest:.1e} and it fades from there."
                yield self.finding(obs, message, where=faded, spread=call.spread)
        self._faded = faded
