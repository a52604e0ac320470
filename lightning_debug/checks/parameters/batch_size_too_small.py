"""Batches whose noise is all that a step follows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, median

from lightning_debug.check import Check
from lightning_debug.curve import Curve, blocks, direction
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Clipping,
    LossCalls,
    Losses,
    Observation,
    Plan,
    RunEnd,
    RunStart,
)


@dataclass(kw_only=True)
class BatchSizeTooSmall(Check):
    """Each step follows the noise of a few samples, and that keeps the loss up.

    Why: a step along the gradient of one or two samples undoes much of what the others have
    taught. At a given learning rate the loss stops falling where the noise of the steps raises it
    as much as the gradient lowers it.

    Silent when: the loss falls or has come down; the steps are too small to raise it, however
    noisy they are, and it is better than chance; an update sees more than a few samples, by
    accumulation or over processes; there are several optimizers, a loss is negative, or nobody
    knows the batch size. Noise of steps that are not large is only said as information.

    Source: McCandlish et al., An Empirical Model of Large-Batch Training (2018).

    Args:
        samples: Most samples of one update that are a few.
        updates: Fewest updates.
        total: Fewest samples of all of them.
        looks: Fewest looks after the first ten updates.
        share: Smallest share of the loss that the noise of the steps makes up.
        noise: Smallest gradient noise scale, over the samples of one update.
        lost: Smallest loss that is no better than chance, over that of a constant prediction.
        ratio: Smallest median of update over weight of large steps.
        high: Smallest loss that has not come down, over that of the first steps.
        fall: Mann-Kendall score of the second half of the curve below which it falls.
        better: Mean of its last quarter over that of the second one below which it falls.
    """

    symptom_of = (
        "gradients-not-cleared",
        "update-too-large",
        "exploding-gradient",
        "input-not-normalized",
        "constant-input",
        "labels-unrelated",
    )
    fix = "DataLoader(..., batch_size=32), or Trainer(accumulate_grad_batches=32)."

    samples: int = 8
    updates: int = 150
    total: int = 400
    looks: int = 5
    share: float = 0.3
    noise: float = 4.0
    lost: float = 0.9
    ratio: float = 2e-2
    high: float = 0.3
    fall: float = -1.6
    better: float = 0.75
    _batch: int = field(default=0, init=False, repr=False)
    _many: int = field(default=1, init=False, repr=False)
    _optimizers: set[str] = field(default_factory=set, init=False, repr=False)
    _curve: Curve = field(default_factory=Curve, init=False, repr=False)
    _chances: deque[float] = field(default_factory=lambda: deque(maxlen=50), init=False, repr=False)
    _negative: bool = field(default=False, init=False, repr=False)
    _seen: deque[Clipping] = field(default_factory=lambda: deque(maxlen=50), init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember the batch size."""
        self._batch = 0 if obs.loader.overfit else obs.loader.batch_size
        yield from ()

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember how many batches make an update."""
        self._many = obs.accumulate * obs.processes
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember what a constant prediction gives."""
        if obs.calls and all(call.references for call in obs.calls):
            self._chances.append(sum(max(call.references.values()) for call in obs.calls))
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the losses."""
        self._negative = self._negative or any(value < 0 for _, value in obs.values)
        self._curve.add(obs.values)
        yield from ()

    def on_clipping(self, obs: Clipping) -> Iterator[Finding]:
        """Remember steps and gradients."""
        self._optimizers.add(obs.optimizer)
        if obs.step >= 10 and math.isfinite(obs.pull) and obs.before > 0:
            self._seen.append(obs)
        yield from self._judge(obs)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge the whole run."""
        if obs.completed:
            yield from self._judge(obs)

    def _judge(self, obs: Observation) -> Iterator[Finding]:
        size = self._batch * self._many
        few = 0 < size <= self.samples and len(self._optimizers) == 1 and not self._negative
        enough = max(self.updates, self.total // max(1, size))
        if not few or len(self._seen) < self.looks or self._curve.last_step < enough:
            return
        values = self._curve.values()
        half = values[len(values) // 2 :]
        first, level = fmean(values[: max(5, len(values) // 20)]), fmean(half)
        if level < self.high * first or self._falls(values):
            return
        # Early gradients are larger than those of a loss that has settled.
        late = [look for look in self._seen if 2 * look.step >= self._curve.last_step]
        share = min(median(map(_raised, looks)) for looks in (self._seen, late or self._seen))
        share /= level
        chance = median(self._chances) if self._chances else math.nan
        ratio = median(look.ratio for look in self._seen)
        lost = level > self.lost * chance > 0
        large = ratio >= self.ratio
        scale = self._scale()
        if scale < self.noise or not (share >= self.share or (lost and large)):
            return
        factor = size * share / 0.02 if share >= self.share else 64.0
        larger = 2 ** round(math.log2(min(64.0, max(16.0, factor))))
        sees = "one sample" if size == 1 else f"{size} samples"
        reason = f"the noise of such steps alone raises it by {share * level:.2g} or more"
        if share < self.share:
            reason = (
                f"a constant prediction gives {chance:.3g}, while each step changes the weights by"
                f" {ratio:.1e} of their size"
            )
        message = (
            f"An update of {self._only} sees {sees}, and the loss stays at {level:.3g}: {reason}."
            f" Gradients of different batches have a mean cosine of {1 / (1 + scale):.2f}."
        )
        fix = (
            f"DataLoader(..., batch_size={larger}), or"
            f" Trainer(accumulate_grad_batches={larger // max(1, size)}); or a tenth of the"
            " learning rate."
        )
        yield self.finding(
            obs,
            message,
            where="batches",
            severity=None if large else Severity.INFO,
            fix=fix,
            samples=float(size),
            advised=float(larger),
            share=share,
        )

    def _falls(self, values: list[float]) -> bool:
        """Tell whether the loss still falls; losses of single samples hide it well."""
        quarter = len(values) // 4
        half = values[2 * quarter :]
        score = min(direction(half), direction(blocks(half, 20)))
        return score < self.fall or fmean(values[-quarter:]) < self.better * fmean(
            values[quarter : 2 * quarter]
        )

    @property
    def _only(self) -> str:
        return next(iter(self._optimizers))

    def _scale(self) -> float:
        """Return the gradient noise scale over the samples of an update; infinite for no signal."""
        alike = [look.alike for look in self._seen if not math.isnan(look.alike)]
        signal = fmean(alike) if alike else 1.0
        return 1.0 / signal - 1.0 if signal > 0 else 1e6


def _raised(look: Clipping) -> float:
    """Return by how much steps like this one raise a loss at its lowest point, by their noise.

    A quarter of learning rate and squared gradient, for gradient descent on any quadratic form.
    """
    memory = min(0.99, max(0.0, look.memory)) if not math.isnan(look.memory) else 0.0
    return max(0.0, look.pull) * look.after**2 / (4.0 * (1.0 - memory))
