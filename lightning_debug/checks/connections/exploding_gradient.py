"""Gradients that grow out of hand."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Backward, Glance, Gradients, LossCalls
from lightning_debug.trend import relative_gradients, trend
from lightning_debug.uphill import Uphill


@dataclass(kw_only=True)
class ExplodingGradient(Check):
    """The gradient is out of hand: over the layers, over the steps, or against the loss.

    Why: an update along such a gradient throws the weights far away, and soon the loss is NaN.

    Silent when: the gradient is large but steady; it grows while the loss falls (a network that
    leaves a plateau); a gradient scaler refuses the step. Gradients are read unscaled.

    Args:
        decades: Growth of gradient over weight from the last layer to the first, or of the whole
            norm over its median so far, as a power of ten.
        correlation: Smallest correlation with depth that counts as a trend.
        layers: Fewest weight matrices that have a depth.
        leverage: Largest healthy product of gradient norm and weight norm, over the loss of a
            constant prediction (at least 1). The loss changes by a hundredth of this for a change
            of the weights by 1 %; even networks of a thousand layers stay below a thousand.
        recurrence: Growth of the gradient from the last quarter of a sequence to the first.
        recurrent_leverage: The leverage that this takes, too.
        history: Looks that make a median.
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    symptom_of = (
        "gradients-not-cleared",
        "accumulation-not-scaled",
        "learning-rate-too-high",
        "update-too-large",
        "weight-init-scale",
        "input-not-normalized",
        "loss-reduction",
    )
    fix = (
        "Clip it: Trainer(gradient_clip_val=1.0). Then lower the learning rate, and check the"
        " initialisation (torch.nn.init.orthogonal_ for recurrent weights)."
    )

    decades: float = 3.0
    correlation: float = 0.7
    layers: int = 4
    leverage: float = 1e5
    recurrence: float = 1e4
    recurrent_leverage: float = 100.0
    history: int = 3
    patience: int = 2
    _uphill: Uphill = field(default_factory=Uphill, init=False, repr=False)
    _steps: tuple[str, float] = field(default=("", 0.0), init=False, repr=False)
    _chance: float = field(default=math.nan, init=False, repr=False)
    _norms: dict[str, deque[float]] = field(default_factory=dict, init=False, repr=False)
    _losses: dict[str, deque[float]] = field(default_factory=dict, init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Leave a loss of the wrong sign on top: clipping only makes it slower."""
        return (*self.symptom_of, *(("loss-diverging",) if self._uphill.found else ()))

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember what constant predictions give; it does not explode with the network."""
        self._uphill.update(obs)
        references = [max(call.references.values()) for call in obs.calls if call.references]
        if math.isnan(self._chance) and references:
            self._chance = sum(references)
        yield from ()

    def on_backward(self, obs: Backward) -> Iterator[Finding]:
        """Remember the recurrent layer in which the gradient grows most towards the first steps."""
        growths = {flow.place: _growth(flow.norms) for flow in obs.recurrent}
        place = max(growths, key=lambda name: growths[name], default="")
        self._steps = (place, growths[place]) if place else ("", 0.0)
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """Compare with the other layers, with the steps before, and with the loss."""
        if not obs.stepped:
            return
        if math.isnan(self._chance) and math.isfinite(obs.loss):
            self._chance = abs(obs.loss)
        ways = (self._over_depth, self._over_time, self._against_loss, self._over_sequence)
        found = next((finding for way in ways for finding in way(obs)), None)
        if found is None:
            return
        place, growth = self._steps
        if growth >= self.recurrence and not found.where.startswith(place):
            message = f"{found.message} It grows {growth:.1e} times over the time steps of {place}."
            found = replace(found, message=message)
        yield found  # one of them is enough

    def on_glance(self, obs: Glance) -> Iterator[Finding]:
        """Compare with the steps before."""
        yield from self._over_time(obs)

    def _over_sequence(self, obs: Gradients) -> Iterator[Finding]:
        place, growth = self._steps
        if growth < self.recurrence:
            return
        weights = math.sqrt(sum(g.weight_norm**2 for g in obs.parameters.values() if g.present))
        # Small gradients may be made to grow by the loss itself: one that is discounted over time.
        if obs.norm * weights / max(1.0, self._chance) > self.recurrent_leverage:
            message = (
                f"The gradient grows {growth:.1e} times from the last time steps of {place} to the"
                f" first; its norm over all weights is {obs.norm:.1e}."
            )
            yield self.finding(obs, message, where=f"{place} over time", growth=growth)

    def _against_loss(self, obs: Gradients) -> Iterator[Finding]:
        gradients = [g for g in obs.parameters.values() if g.present]
        norm, weights = obs.norm, math.sqrt(sum(g.weight_norm**2 for g in gradients))
        leverage = norm * weights / max(1.0, self._chance)
        if leverage > self.leverage and math.isfinite(leverage):
            message = (
                f"The gradient norm is {norm:.1e} at a loss of {obs.loss:.3g}: changing the"
                f" weights along it by a millionth of their size ({weights:.3g}) changes the loss"
                f" by about {1e-6 * norm * weights:.1e}."
            )
            yield self.finding(obs, message, where=obs.optimizer, norm=norm, weights=weights)

    def _over_depth(self, obs: Gradients) -> Iterator[Finding]:
        values = relative_gradients(obs)
        line = trend(list(values.values()))
        if len(values) < self.layers or line is None:
            return
        if -line.rise >= self.decades + 1 and -line.correlation >= self.correlation:
            first, *_, last = values
            message = (
                f"The gradient over the weight is {values[last]:.1e} at {last} but"
                f" {values[first]:.1e} at {first}: it grows by 10^{-line.rise:.1f} over"
                f" {len(values)} layers."
            )
            yield self.finding(obs, message, where=first, first=values[first], last=values[last])

    def _over_time(self, obs: Gradients | Glance) -> Iterator[Finding]:
        norm = obs.norm
        norms = self._norms.setdefault(obs.optimizer, deque(maxlen=50))
        losses = self._losses.setdefault(obs.optimizer, deque(maxlen=50))
        if len(norms) >= self.history and math.isfinite(norm):
            usual, before = median(norms), median(losses)
            worse = not obs.loss <= before
            if worse and usual > 0 and norm > 10**self.decades * usual:
                message = (
                    f"The gradient norm is {norm:.2e}, {norm / usual:.0f} times its median so far"
                    f" ({usual:.2e}), and the loss has gone from {before:.3g} to {obs.loss:.3g}."
                )
                yield self.finding(obs, message, where=obs.optimizer, norm=norm, median=usual)
                return  # what has exploded does not enter the history
        if math.isfinite(norm) and math.isfinite(obs.loss):
            norms.append(norm)
            losses.append(obs.loss)


def _growth(norms: tuple[float, ...]) -> float:
    """Return by how much a gradient grows from last to first; 0 where it does not all the way."""
    steady = all(earlier > 2.0 * later > 0.0 for earlier, later in itertools.pairwise(norms))
    return norms[0] / norms[-1] if steady and math.isfinite(norms[0]) else 0.0
