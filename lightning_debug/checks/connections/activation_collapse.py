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

    The same is asked of the positions of each sample (tokens, time steps), where several layers
    in a row have lost what told them apart: attention without residual connections does so.

    Silent when: the input does not differ either, or the module only asks for its shape (class
    tokens, position tables, learned queries); heads and zero-initialised branches before the
    first updates; batches of fewer than four samples.

    Args:
        spread: Largest standard deviation over the samples, relative to the rms, that counts as
            the same.
        alive: Spread that an earlier layer has to have had: a long chain loses it bit by bit.
        step: Largest factor that counts as a bit.
        leap: The same over positions, where attention loses them ever faster.
        patience: Looks in a row.
    """

    symptom_of = (
        "dead-relu",
        "saturated-activation",
        "symmetric-init",
        "vanishing-gradient",
        "weight-init-scale",
        "learning-rate-too-high",
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
    leap: float = 1e4
    patience: int = 8
    _alike: str = field(default="", init=False, repr=False)
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
        yield from self._over_positions(obs)
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

    def _over_positions(self, obs: Activations) -> Iterator[Finding]:
        """Find where the positions of a sample have become one, layer by layer."""
        widest: dict[str, float] = {}  # by place: largest spread on the way there
        losses: dict[str, int] = {}  # by place: layers on the way that lost half of it and more
        made: dict[str, float] = {}
        for call in obs.modules:
            if math.isnan(call.positions) or math.isnan(call.input_positions):
                continue
            # What mixes positions by hand lies between the last layer in it and the next one.
            source = next((p for p in reversed(made) if _inside(p, call.source)), "")
            before = made.get(source, call.input_positions)
            fading = losses.get(source, 0) > 1 and before <= widest[source] / self.step
            gradual = fading or call.input_positions >= before / self.leap
            wide = max(call.input_positions, widest.get(source, 0.0) if gradual else 0.0)
            lost = losses.get(source, 0) if gradual else 0
            lost += call.input_positions < before / 2
            lost += call.positions < call.input_positions / 2
            made[call.place] = call.positions
            near = call.input_positions > wide / self.step
            if near and call.positions < call.input_positions / self.leap:
                wide = lost = 0  # one module pools them, on purpose
            widest[call.place], losses[call.place] = wide, lost
            faded = call.positions <= self.spread and wide >= self.leap * self.spread
            if faded and lost > 1 and call.trained and call.reads_input:
                message = (
                    f"{call.place} ({call.kind}) gives the same output at every position of a"
                    f" sample (relative spread {call.positions:.1e}): the layers before it lose a"
                    f" spread of {wide:.1e} one after the other."
                )
                # Where it falls below the line may change from look to look.
                self._alike = self._alike or f"{call.place} over positions"
                fix = (
                    "Add a residual connection around each attention and feed-forward part:"
                    " x = x + self.attention(self.norm(x))."
                )
                yield self.finding(obs, message, where=self._alike, fix=fix, spread=call.positions)
                return


def _inside(place: str, source: str) -> bool:
    return bool(source) and (place == source or place.startswith(source + "."))
