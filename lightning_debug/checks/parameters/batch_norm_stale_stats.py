"""Batch norms whose running statistics are not those of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import BatchNormCall, BatchNorms, Losses, ModeGap, Plan, RunStart

SHIFTED = 3


@dataclass(kw_only=True)
class BatchNormStaleStats(Check):
    """The running statistics that a batch norm evaluates by are not those of its input.

    Why: in training a batch norm normalises by the batch, in evaluation by its running mean and
    variance. Where these never move, follow the last batch only, still hold the zeros and ones
    that they started with, or drift in a part that is meant to be frozen, evaluation runs another
    network than the one that was trained.

    Silent when: ``momentum=None`` (the average over all batches); ``track_running_stats=False``;
    one batch is the whole data; the frozen part is an average of other weights or has moved
    within noise; a batch norm has had frozen weights since it was made, and what feeds it is
    trained; training has just begun; the loss is the same by either statistics.

    Source: Ioffe, Batch Renormalization (2017).

    Args:
        fast: Momentum from which on the statistics are those of the last batch.
        slow: Largest momentum that is too small for the length of a run.
        kept: Share of the initial statistics that is too much at the end of a run.
        drift: Smallest change of a frozen mean, in standard deviations.
        stretch: Smallest change of a frozen variance, as a ratio.
        gap: Distance of the batch from the running mean that matters, in standard deviations.
        scale: Ratio of the variances of the batch and the running one that matters.
        shift: The same distance where the loss is compared, on a copy.
        spread: The same ratio there; batches of eight differ by a factor of 2.
        loss: Loss by the running statistics over that by the batch, on one batch.
        worse: Difference of the two, as a share of the first loss of the run.
        updates: Updates before which initial statistics are no wonder.
    """

    fix = "Use the default momentum: nn.BatchNorm2d(channels) has 0.1, the share of the new batch."
    symptom_of = (
        "batch-norm-small-batch",
        "batch-norm-not-synced",
        "dropout-before-batch-norm",
        "module-in-eval-mode",
        "data-not-shuffled",
        "learning-rate-too-high",
        "update-too-large",
        "loss-diverging",
    )

    fast: float = 0.9
    slow: float = 0.005
    kept: float = 0.5
    drift: float = 0.15
    stretch: float = 1.3
    gap: float = 0.5
    scale: float = 2.0
    shift: float = 0.8
    spread: float = 3.0
    loss: float = 1.5
    worse: float = 0.25
    updates: int = 10
    _plan: Plan = field(default_factory=Plan, init=False)
    _first: float = field(default=math.nan, init=False)
    _gap: bool = field(default=False, init=False)
    _resumed: bool = field(default=False, init=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember how long the run is."""
        self._plan = obs
        yield from ()

    def on_batch_norms(self, obs: BatchNorms) -> Iterator[Finding]:
        """List the batch norms whose statistics are wrong by themselves."""
        for call in obs.calls:
            if obs.stage == "validation":
                yield from self._evaluated(obs, call)
            elif call.training and call.tracked:
                yield from self._frozen(obs, call) if call.frozen else self._momentum(obs, call)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember whether training goes on from a checkpoint."""
        self._resumed = obs.resumed
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the first loss."""
        if obs.values and math.isnan(self._first):
            self._first = obs.values[0][1]
        yield from ()

    def on_mode_gap(self, obs: ModeGap) -> Iterator[Finding]:
        """Compare the loss by running statistics with that by the batch's."""
        far = obs.gap >= self.shift or obs.scale >= self.spread
        if not obs.place or not far or not math.isfinite(obs.running) or obs.batch < 0.0:
            self._gap = False
            return
        first = self._first if math.isfinite(self._first) else 0.0
        worse = max(self.loss * obs.batch, obs.batch + self.worse * first)
        earlier, self._gap = self._gap, obs.running > worse
        # Twice, whichever batch norm is farthest: weights that move fast leave them behind.
        if earlier and self._gap:
            yield self.finding(
                obs,
                f"On one training batch, with dropout off, the loss is {obs.running:.3g} by running"
                f" statistics and {obs.batch:.3g} by those of the batch; most of it comes from"
                f" {obs.place}, whose running mean is {obs.gap:.2g} standard deviations away"
                f" (variances differ by a factor of {obs.scale:.2g}).",
                where=obs.place,
                fix="Feed batches of one kind to a batch norm in train mode, or use nn.GroupNorm;"
                " torch.optim.swa_utils.update_bn(loader, model) measures the statistics anew.",
                batch=obs.batch,
                running=obs.running,
                gap=obs.gap,
                scale=obs.scale,
            )

    def _momentum(self, obs: BatchNorms, call: BatchNormCall) -> Iterator[Finding]:
        place, at = call.place, f" ({call.line})" if call.line else ""
        if call.momentum >= self.fast and self._plan.batches != 1:
            told = (
                f"{place}{at} has momentum={call.momentum:g}: {call.momentum:.0%} of its running"
                " statistics come from the last batch alone."
            )
        elif call.momentum == 0.0:
            told = f"{place}{at} has momentum=0, so its running statistics never move."
        elif call.initial and call.momentum <= self.slow and self._far(call):
            total = max(call.updates, self._plan.updates * self._plan.accumulate)
            known = self._plan.updates or call.updates >= 200
            left = (1.0 - call.momentum) ** total
            if not known or left < self.kept:
                return
            told = (
                f"{place} has momentum={call.momentum:g}: after {total} batches its running"
                f" statistics still hold {left:.0%} of the zeros and ones they started with."
            )
        else:
            return
        yield self.finding(
            obs, told, where=place, patience=SHIFTED, momentum=call.momentum, values=call.values
        )

    def _frozen(self, obs: BatchNorms, call: BatchNormCall) -> Iterator[Finding]:
        moved = call.drift >= self.drift or call.stretch >= self.stretch
        # Trained from the start, such a batch norm is one without weights.
        chosen = call.halfway and (call.initial or self._resumed)
        if call.moved or not moved or chosen:
            return
        yield self.finding(
            obs,
            f"{call.place} is frozen, but in train mode: its running mean has moved by"
            f" {call.drift:.2g} standard deviations since training started, its variance by a"
            f" factor of {call.stretch:.2g}.",
            where=call.place,
            fix="Keep what is frozen in eval mode too, with its batch norms: call .eval() on it in"
            " __init__ and in train(mode) of the module, or at the start of each epoch.",
            patience=SHIFTED,
            drift=call.drift,
            stretch=call.stretch,
        )

    def _evaluated(self, obs: BatchNorms, call: BatchNormCall) -> Iterator[Finding]:
        untouched = call.frozen and not call.moved  # meant to be as it is
        if call.initial and obs.step >= self.updates and self._far(call) and not untouched:
            yield self.finding(
                obs,
                f"{call.place} is validated by running statistics of 0 and 1, as it was made; its"
                f" input is {call.gap:.2g} standard deviations away (variances differ by a factor"
                f" of {call.scale:.2g}).",
                where=call.place,
                fix="Copy the buffers of averaged weights too: torch.optim.swa_utils.AveragedModel"
                " does, and update_bn(loader, model) measures them anew.",
                gap=call.gap,
                scale=call.scale,
            )

    def _far(self, call: BatchNormCall) -> bool:
        return call.gap >= self.gap or call.scale >= self.scale
