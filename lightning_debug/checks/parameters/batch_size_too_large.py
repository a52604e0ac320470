"""Batches so large that a run makes hardly any steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean

from lightning_debug.check import Check
from lightning_debug.curve import direction
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import GradientNoise, Losses, Plan, RunEnd, RunStart


@dataclass(kw_only=True)
class BatchSizeTooLarge(Check):
    """One or two huge batches make an epoch, the run has few updates, and ends half-trained.

    Why: beyond the gradient noise scale more samples say nothing new about where to go. Ten times
    smaller batches make ten times the steps from the same samples.

    Silent when: an epoch has several batches, or the run many updates; the loss has come down, or
    has stopped to fall; the samples differ so much that the batch is not far above the noise
    scale (also all small data sets); the batch is overfitted on purpose; an optimizer keeps a
    history of whole gradients, as LBFGS does. One batch an epoch by ``limit_train_batches=1``
    is only said as information.

    Source: McCandlish et al., An Empirical Model of Large-Batch Training (2018).

    Args:
        batches: Most batches of an epoch.
        updates: Most updates of a run.
        fewest: Fewest losses.
        samples: Fewest samples of a batch.
        redundant: Smallest batch, over the estimated noise scale.
        sure: The same over the upper bound of the estimate.
        high: Smallest loss at the end, over the first, that is half-trained.
    """

    symptom_of = (
        "learning-rate-too-low",
        "update-too-small",
        "weights-not-updated",
        "clipping-too-tight",
    )
    fix = "DataLoader(..., batch_size=32)."

    batches: int = 2
    updates: int = 100
    fewest: int = 5
    samples: int = 256
    redundant: float = 4.0
    sure: float = 2.0
    high: float = 0.5
    _plan: Plan = field(default_factory=Plan, init=False, repr=False)
    _whole: int = field(default=0, init=False, repr=False)
    _overfit: bool = field(default=False, init=False, repr=False)
    _noise: list[GradientNoise] = field(default_factory=list, init=False, repr=False)
    _losses: list[float] = field(default_factory=list, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what the loader has."""
        self._whole = obs.loader.batches
        self._overfit = obs.loader.overfit or obs.resumed
        yield from ()

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember how many batches and updates there will be."""
        self._plan = obs
        if obs.batches == 1 and self._whole > 2 and obs.epochs > 1 and not self._overfit:
            message = (
                f"An epoch has one batch, though the loader has {self._whole}:"
                " limit_train_batches=1 is one batch, limit_train_batches=1.0 all of them."
            )
            fix = "Trainer(limit_train_batches=1.0)."
            yield self.finding(obs, message, where="batches", severity=Severity.INFO, fix=fix)

    def on_gradient_noise(self, obs: GradientNoise) -> Iterator[Finding]:
        """Remember how much samples differ."""
        if not obs.skipped:
            self._noise.append(obs)
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the losses, of which there are few."""
        room = self.updates - len(self._losses)
        self._losses += [value for _, value in obs.values if math.isfinite(value)][: max(0, room)]
        yield from ()

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge the run when it is over."""
        plan, losses = self._plan, self._losses
        limited = plan.batches < self._whole
        few = 0 < plan.batches <= self.batches and plan.updates <= self.updates
        if not obs.completed or self._overfit or limited or not few or not self._noise:
            return
        if len(plan.optimizers) != 1 or any(
            "history_size" in group.settings for group in plan.optimizers[0].groups
        ):
            return
        batch = max(noise.batch for noise in self._noise)
        scale = fmean(noise.scale for noise in self._noise)
        high = min(noise.high for noise in self._noise)
        if batch < max(self.samples, self.redundant * scale, self.sure * high):
            return
        if not self._half_trained(losses):
            return
        smaller = 2 ** round(math.log2(min(64.0, max(16.0, scale / 2))))
        message = (
            f"A batch has {batch} samples, so the run made {len(losses)} updates and ended at a"
            f" loss of {losses[-1]:.3g}, from {losses[0]:.3g}, still falling. Beyond about"
            f" {scale:.0f} samples (the gradient noise scale) more of them say nothing new."
        )
        yield self.finding(
            obs,
            message,
            where="batches",
            patience=1,
            fix=f"DataLoader(..., batch_size={smaller}).",
            batch=float(batch),
            scale=scale,
            advised=float(smaller),
        )

    def _half_trained(self, losses: list[float]) -> bool:
        """Tell whether the loss is still high, and still falls."""
        if len(losses) < self.fewest or min(losses) < 0:
            return False
        part = max(1, len(losses) // 5)
        first, last = fmean(losses[:part]), fmean(losses[-part:])
        falls = direction(losses[len(losses) // 3 :]) < -1.6
        return falls and last > self.high * first
