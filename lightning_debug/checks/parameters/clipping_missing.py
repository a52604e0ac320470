"""Gradients that spike again and again, with nothing that bounds them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Clipping, Losses, Observation, Plan, RunEnd

WINDOW = 400


@dataclass(frozen=True)
class _Spike:
    """A gradient far above the usual ones, and the losses around its step."""

    step: int
    height: float
    before: float
    after: float
    harmful: bool


@dataclass(kw_only=True)
class ClippingMissing(Check):
    """Again and again a gradient is far larger than usual, and the step with it does harm.

    Why: one such step throws away what many others have learned, and the loss has to come down
    again. A limit on the norm keeps the direction of such a gradient and takes its force.

    Silent when: gradients are clipped, by whomever; spikes do nothing, as with Adam or with
    harmless outliers; there are one or two, or only in the first steps; the loss rises with the
    gradient and stays where it is (other data, a curriculum); it is ever negative (policies,
    critics); there are several optimizers.

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks
    (2013).

    Args:
        height: A spike over the median of the gradients before it.
        jump: Rise of the loss after a spike that is harm, if it is also above most losses before.
        drop: The same where two spikes are enough.
        spikes: Fewest harmful spikes.
        share: Smallest share of the higher half of the spikes that is harmful.
        history: Fewest steps before a spike.
        apart: Steps between two spikes; those in between are one.
    """

    symptom_of = (
        "gradients-not-cleared",
        "accumulation-not-scaled",
        "update-too-large",
        "exploding-gradient",
        "input-not-normalized",
    )
    fix = "Trainer(gradient_clip_val=1.0)."

    height: float = 5.0
    jump: float = 1.3
    drop: float = 2.0
    spikes: int = 3
    share: float = 0.5
    history: int = 10
    apart: int = 4
    _losses: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _norms: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _usual: deque[tuple[int, float]] = field(
        default_factory=lambda: deque(maxlen=50), init=False, repr=False
    )
    _optimizers: set[str] = field(default_factory=set, init=False, repr=False)
    _automatic: bool = field(default=True, init=False, repr=False)
    _barred: bool = field(default=False, init=False, repr=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember whether anything is clipped, and how many optimizers there are."""
        self._automatic = obs.automatic
        self._barred = obs.clip_value > 0 or len(obs.optimizers) > 1
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the losses, of several in one step the last."""
        self._losses |= {step: value for step, value in obs.values if math.isfinite(value)}
        self._barred = self._barred or any(value < 0 for _, value in obs.values)
        _shorten(self._losses)
        yield from ()

    def on_clipping(self, obs: Clipping) -> Iterator[Finding]:
        """Look for spikes since the last look."""
        self._optimizers.add(obs.optimizer)
        self._norms |= {step: size for step, size in obs.passed if math.isfinite(size)}
        _shorten(self._norms)
        if math.isfinite(obs.before):
            self._usual.append((obs.step, obs.before))
        if obs.factor < 0.95 or len(self._optimizers) > 1:
            self._barred = True
        yield from self._judge(obs)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge what has come since the last look."""
        yield from self._judge(obs)

    def _judge(self, obs: Observation) -> Iterator[Finding]:
        if self._barred or not self._usual:
            return
        found = list(self._found())
        harmful = [spike for spike in found if spike.harmful]
        strong = [spike for spike in harmful if spike.after >= self.drop * spike.before]
        enough = len(harmful) >= self.spikes or len(strong) >= self.spikes - 1
        if not enough or not self._grows(found):
            return
        worst = max(harmful, key=lambda spike: spike.after / max(spike.before, 1e-30))
        limit = float(f"{self._limit(found):.2g}")
        message = (
            f"The gradient has spiked {len(found)} times, at step {worst.step} to"
            f" {worst.height:.0f} times its median, and {len(harmful)} times the loss was higher"
            f" afterwards: {worst.after:.3g} in the steps after this one, {worst.before:.3g} before"
            " it. Nothing clips it."
        )
        fix = f"Trainer(gradient_clip_val={limit:g}), and look at the batches of these steps."
        if not self._automatic:
            fix = (
                f'self.clip_gradients(optimizer, {limit:g}, "norm") between manual_backward and'
                " step, and look at the batches of these steps."
            )
        yield self.finding(
            obs,
            message,
            where=", ".join(sorted(self._optimizers)),
            fix=fix,
            spikes=float(len(found)),
            harmful=float(len(harmful)),
            limit=limit,
        )

    def _grows(self, found: list[_Spike]) -> bool:
        """Tell whether it is the high spikes that do harm."""
        heights = sorted(spike.height for spike in found)
        high = [spike for spike in found if spike.height >= heights[len(heights) // 2]]
        return sum(spike.harmful for spike in high) >= self.share * len(high)

    def _limit(self, spikes: list[_Spike]) -> float:
        """Return a norm at the lower third of those that are no spike and follow none."""
        after = {spike.step + i for spike in spikes for i in range(2 * self.apart)}
        calm = sorted(norm for step, norm in self._usual if step not in after)
        usual = calm or sorted(norm for _, norm in self._usual)
        return usual[len(usual) // 3]

    def _found(self) -> Iterator[_Spike]:
        """Yield the spikes whose steps after them are known, each time it is all quiet again."""
        quiet: deque[float] = deque(maxlen=50)
        calm: deque[float] = deque(maxlen=10)
        last = -math.inf
        for step in sorted(self._norms):
            norm, loss = self._norms[step], self._losses.get(step)
            usual = median(quiet) if len(quiet) >= self.history else math.inf
            if norm < self.height * usual:
                quiet.append(norm)
                if loss is not None and step - last > self.apart:
                    calm.append(loss)
                continue
            fresh = step - last > self.apart
            last = step
            after = [self._losses[s] for s in range(step + 1, step + 5) if s in self._losses]
            if fresh and loss is not None and len(after) == 4 and len(calm) >= 5:
                # Most of the losses: another spike may be among them.
                lasting = sorted(after)[1]
                yield self._spike(step, norm / max(usual, 1e-30), loss, sorted(calm), lasting)

    def _spike(
        self, step: int, height: float, loss: float, calm: list[float], after: float
    ) -> _Spike:
        before = median(calm)
        # Where the loss of this very batch is as high, it has not come from its step.
        moved = before * self.jump < loss and after / 1.5 <= loss <= after * 4.0
        high = calm[int(0.8 * (len(calm) - 1))]
        # Losses of one sample or two jump about by themselves.
        usual = max(high, self.jump * before) if high < 2.0 * before else 2.0 * calm[-1]
        return _Spike(step, height, before, after, after > usual and not moved)


def _shorten(values: dict[int, float]) -> None:
    """Keep the last steps."""
    for step in sorted(values)[:-WINDOW]:
        del values[step]
