"""Losses that are summed, with steps that are too large for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossCall, LossCalls, Losses, RunEnd, Updates
from lightning_debug.ratios import by_group


@dataclass(kw_only=True)
class LossReduction(Check):
    """The loss is a sum over the batch, and the steps are too large by about that number.

    Why: a sum over N targets has N times the gradient of their mean. With SGD the learning rate
    is N times as large as it says, changes with the batch size, and gradient clipping and loss
    weights mean something else for every batch.

    It is info where the steps are sane, or the optimizer divides by the size of the gradient as
    Adam does.

    Silent when: the sum is divided by hand (by the batch size, the number of tokens); the loss
    falls, so the learning rate was chosen for the sum.

    Args:
        terms: Fewest terms of a sum that are told.
        ratio: Update over weight (rms) of the first step that is too large; about 1e-3 is usual.
        sane: The same of the step that the mean would have given, if the sum is to blame.
        progress: Share of the first loss that has to be gone for such steps to be fine.
        divided: Part of the sum that the loss of the step has to be to count as undivided.
        patience: Looks in a row.
    """

    fix = (
        "Use reduction='mean', the default, or divide the sum by the number of targets; or lower"
        " the learning rate by that number."
    )

    terms: int = 8
    ratio: float = 0.03
    sane: float = 0.3
    progress: float = 0.1
    divided: float = 0.5
    patience: int = 5
    _call: LossCall | None = field(default=None, init=False, repr=False)
    _first: float = field(default=math.nan, init=False, repr=False)
    _loss: float = field(default=math.nan, init=False, repr=False)
    _sums: bool = field(default=False, init=False, repr=False)
    _divided: bool = field(default=False, init=False, repr=False)
    _large: float = field(default=0.0, init=False, repr=False)
    _judged: bool = field(default=False, init=False, repr=False)
    _told: bool = field(default=False, init=False, repr=False)

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember the sum with the most terms."""
        sums = [c for c in obs.calls if c.reduction == "sum" and c.terms >= self.terms]
        self._call = max(sums, key=lambda call: call.terms, default=None)
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """See whether the loss of the step is that sum."""
        values = [value for _, value in obs.values]
        if not values or self._call is None:
            return
        call, loss = self._call, values[-1]
        whole, size = abs(call.value * call.terms), abs(loss)
        # Once is enough: a divisor, as the number of targets that count, may be 1 at times.
        self._divided = self._divided or size < self.divided * whole
        self._sums = not self._divided and (self._sums or 0.0 < size < 2.0 * whole)
        # Batches may differ in size, so losses are compared per target.
        self._first = call.value if math.isnan(self._first) else self._first
        self._loss = call.value if math.isfinite(loss) else loss
        if self._sums and self._large and not math.isfinite(loss):
            yield self._tell(obs, call, patience=1)

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """See whether the steps of an optimizer that goes by the gradient's size are too large."""
        call = self._call
        if not self._sums or call is None or not obs.optimizer.startswith("SGD"):
            return
        ratio = max((ratios.median for ratios in by_group(obs).values()), default=0.0)
        # Later ones may be those of weights that have exploded already.
        if not self._judged and ratio > self.ratio and ratio / call.terms <= self.sane:
            self._large = ratio
        self._judged = True
        self._told = False
        if self._large and not self._loss < self._first * (1.0 - self.progress):
            yield self._tell(obs, call)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Say that the loss was a sum, if that did no harm."""
        call = self._call
        if self._sums and call is not None and not self._told:
            message = (
                f"{call.function} is a sum over {call.terms} targets, not their mean: its size, and"
                " that of the gradient, go with the batch size."
            )
            yield self.finding(
                obs, message, where=call.place, severity=Severity.INFO, patience=1, terms=call.terms
            )

    def _tell(self, obs: Losses | Updates, call: LossCall, patience: int = 0) -> Finding:
        self._told = True
        message = (
            f"{call.function} is a sum over {call.terms} targets. The first step changed the"
            f" weights by {self._large:.2g} of their size, {call.terms} times as much as with the"
            f" mean; about 1e-3 is usual. The loss of one target has gone from {self._first:.3g} to"
            f" {self._loss:.3g}."
        )
        return self.finding(
            obs, message, where=call.place, patience=patience, terms=call.terms, ratio=self._large
        )
