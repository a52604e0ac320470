"""Layers that say the same whatever the sample is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Activations, Updates


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
        step: Largest factor that counts as a bit.
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
        "input-not-normalized",
        "constant-input",
    )
    fix = (
        "Look at this layer: dead units before it, softmax over one value, a mean over the batch"
        " axis, zero weights; in very deep plain networks add residual connections or norms."
    )

    spread: float = 1e-5
    alive: float = 1e-3
    step: float = 100.0
    patience: int = 8
    _faded: str = field(default="", init=False, repr=False)
    _resting: bool = field(default=False, init=False, repr=False)

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Remember whether a warm-up still keeps every learning rate at 0."""
        self._resting = obs.resting
        yield from ()

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Find the modules between a varying input and a constant output."""
        if self._resting:
            return
        fed: dict[str, float] = {}  # by place: largest spread on the way there
        made: dict[str, float] = {}
        faded, sudden = "", False
        for call in obs.modules:
            # What falls between two modules, as codes of a quantiser do, has not faded.
            gradual = call.input_spread >= made.get(call.source, math.inf) / self.step
            made[call.place] = call.spread
            spreads = [call.input_spread, fed.get(call.source, 0.0) if gradual else 0.0]
            widest = max((spread for spread in spreads if not math.isnan(spread)), default=0.0)
            fed[call.place] = max(widest, fed.get(call.place, 0.0))
            if not (call.trained and call.reads_input and call.spread <= self.spread):
                continue
            message = (
                f"{call.place} ({call.kind}) gives the same output for every sample (relative"
                f" spread {call.spread:.1e})"
            )
            if call.input_spread / 10 > self.spread:
                message += f"; its input has a spread of {call.input_spread:.1e}."
                yield self.finding(obs, message, where=call.place, spread=call.spread)
                sudden = True  # what comes after is its doing
            elif widest >= self.alive and not faded and not sudden:
                # Where a long chain falls below the line may change from look to look.
                faded = self._faded or call.place
                message += f"; the layers before it lose a spread of {widest:.1e} bit by bit."
                yield self.finding(obs, message, where=faded, spread=call.spread)
        self._faded = faded
