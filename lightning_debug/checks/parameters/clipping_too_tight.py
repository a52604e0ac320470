"""Clipping that leaves next to nothing of the gradients."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import Check
from lightning_debug.curve import Curve
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Clipping, Losses, Observation, Plan, RunEnd


@dataclass(kw_only=True)
class ClippingTooTight(Check):
    """Clipping leaves a small part of the gradients at nearly every step, and that does harm.

    Why: a limit far below the usual norm takes a tenth or a thousandth of each step away, so
    training stands still; by value it takes the direction away, too. Clipped while a gradient
    scaler's factor is on them, gradients are cut thousands of times too far.

    Silent when: the limit acts on some steps, or moderately; the steps are of a usual size with
    it, as where the learning rate goes with it; without it they would be small, too; the loss
    falls; only the first steps are clipped; noise is added, as for privacy; gradients are divided
    by a constant. For optimizers that make steps of one length, as Adam does, it is only said as
    information, as long as the gradients stay above their epsilon.

    Source: PyTorch Lightning issue 9694 (clipping of scaled gradients).

    Args:
        factor: Largest share of the gradient that counts as next to nothing.
        share: Smallest share of the looks at which that is all that is left.
        pinned: Smallest share of elements at the limit, by value, at which only signs are left.
        ratio: Largest median of update over weight that is slow.
        moderate: The same where more than a third of ``factor`` is left of the gradients.
        still: The same where without clipping the steps would be far too large.
        usual: Smallest such ratio without clipping, over that with it at least fivefold.
        huge: Smallest ratio without clipping that is far too large.
        fall: Share of the first loss by which one falls that is learning all the same.
        updates: Fewest updates, except where the run is over before.
        looks: Fewest looks.
    """

    fix = "Trainer(gradient_clip_val=1.0), or no clipping."

    factor: float = 0.1
    share: float = 0.9
    pinned: float = 0.9
    ratio: float = 1e-3
    moderate: float = 3e-4
    still: float = 1e-4
    usual: float = 1e-4
    huge: float = 0.1
    fall: float = 0.3
    updates: int = 30
    looks: int = 6
    _seen: dict[str, deque[Clipping]] = field(default_factory=dict, init=False, repr=False)
    _first: int | None = field(default=None, init=False, repr=False)
    _curve: Curve = field(default_factory=Curve, init=False, repr=False)
    _limit: float = field(default=0.0, init=False, repr=False)
    _automatic: bool = field(default=True, init=False, repr=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember what the trainer is told to do."""
        self._limit, self._automatic = obs.clip_value, obs.automatic
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the losses."""
        self._curve.add(obs.values)
        yield from ()

    def on_clipping(self, obs: Clipping) -> Iterator[Finding]:
        """Judge an optimizer by its last looks."""
        if not obs.before > 0 or not math.isfinite(obs.before):
            return
        seen = self._seen.setdefault(obs.optimizer, deque(maxlen=50))
        seen.append(obs)
        self._first = obs.step if self._first is None else self._first
        if obs.step - self._first >= self.updates:
            yield from self._judge(obs, seen)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge a short run when it is over."""
        if obs.completed:
            for seen in self._seen.values():
                yield from self._judge(obs, seen)

    def _judge(self, obs: Observation, seen: Sequence[Clipping]) -> Iterator[Finding]:
        tight = [look for look in seen if look.factor <= self.factor or self._signs(look)]
        if len(tight) < max(self.looks, self.share * len(seen)) or _constant(tight):
            return
        if median(look.cosine for look in tight) < 0.3 and not all(map(self._signs, tight)):
            return  # noise was added, or they are other gradients
        reason = self._scaled(tight) or self._flushed(tight) or self._slow(tight)
        severity = Severity.WARNING
        if not reason and sum(map(self._signs, tight)) >= self.share * len(tight):
            share = median(look.pinned for look in tight)
            reason = f"{100 * share:.0f} % of their elements lie at the limit: only signs are left"
        if not reason and not self._linear(tight):
            severity = Severity.INFO
            reason = "its steps are as long as without that, but all gradients count the same"
        if reason:
            yield self._tell(obs, tight, reason, severity)

    def _tell(
        self, obs: Observation, tight: Sequence[Clipping], reason: str, severity: Severity
    ) -> Finding:
        before = sorted(look.before for look in tight)
        usual, after = median(before), median(look.after for look in tight)
        line = tight[-1].line
        who = f" at {line}" if line else ""
        limit = float(f"{before[int(0.9 * (len(before) - 1))]:.2g}")
        message = (
            f"Clipping{who} cuts the gradients of {tight[-1].optimizer} from a norm of {usual:.3g}"
            f" to {after:.3g} (medians) at {len(tight)} of {len(self._seen[tight[-1].optimizer])}"
            f" looks: {reason}."
        )
        fix = f"Trainer(gradient_clip_val={limit:g}): nine of ten gradients here are smaller."
        if not self._automatic or line:
            fix = (
                f"torch.nn.utils.clip_grad_norm_(self.parameters(), {limit:g}): nine of ten"
                " gradients here are smaller."
            )
        if _scale(tight) > 1.0:
            fix = (
                "Clip when the factor is off: in on_before_optimizer_step(self, optimizer) of the"
                f" module, torch.nn.utils.clip_grad_norm_(self.parameters(), {limit:g}); with a"
                " scaler of your own, after scaler.unscale_(optimizer)."
            )
        return self.finding(
            obs,
            message,
            where=tight[-1].optimizer,
            severity=severity,
            fix=fix,
            before=usual,
            after=after,
            limit=limit,
        )

    def _signs(self, look: Clipping) -> bool:
        """Tell whether all elements of the gradients are equally large: cut by value."""
        return look.pinned >= self.pinned and look.factor < 0.9

    def _scaled(self, tight: Sequence[Clipping]) -> str:
        scale = _scale(tight)
        if scale <= 1.0:
            return ""
        norm = median(look.before * look.scale for look in tight)
        return (
            f"they still carried the factor {scale:g} of the gradient scaler, with a norm of"
            f" {norm:.3g}"
        )

    def _flushed(self, tight: Sequence[Clipping]) -> str:
        """Say whether the optimizer's epsilon is larger than what is left."""
        eps, left = tight[-1].eps, median(look.rms for look in tight)
        before = median(look.rms / look.factor for look in tight if look.factor > 0)
        if self._linear(tight) or not left <= eps < before:
            return ""
        return f"their elements ({left:.1e}) drown in the eps={eps:g} of the optimizer"

    def _slow(self, tight: Sequence[Clipping]) -> str:
        """Say by how much the steps are smaller than they would be."""
        ratio = median(look.ratio for look in tight)
        without = median(look.ratio / look.factor for look in tight if look.factor > 0)
        left = median(look.factor for look in tight)
        usual = self.ratio if left <= self.factor / 3.0 else self.moderate
        slow = ratio <= (usual if without < self.huge else self.still)
        cause = without >= max(self.usual, 5.0 * ratio)
        if not (slow and cause and self._linear(tight)) or self._learns():
            return ""
        return (
            f"one step changes the weights by {ratio:.1e} of their size, without clipping it would"
            f" be {without:.1e}"
        )

    def _linear(self, tight: Sequence[Clipping]) -> bool:
        """Tell whether a smaller gradient makes a smaller step: plain gradient descent."""
        memory = min(0.99, max(0.0, _known(tight[-1].memory, 0.0)))
        pulls = [look.pull / look.lr for look in tight if look.lr > 0 and not math.isnan(look.pull)]
        return bool(pulls) and 0.2 <= median(pulls) <= 3.0 / (1.0 - memory)

    def _learns(self) -> bool:
        values = self._curve.values()
        if len(self._seen) > 1 or len(values) < 5:
            return False
        part = max(3, len(values) // 5)
        first, last = median(values[:5]), median(values[-part:])
        return first - last > self.fall * abs(first)


def _scale(tight: Sequence[Clipping]) -> float:
    """Return the factor of a scaler that was on the gradients when they were clipped; or 1."""
    scaled = [look for look in tight if look.scale > 1.0 and look.scaled_factor <= 0.5]
    return median(look.scale for look in scaled) if 2 * len(scaled) > len(tight) else 1.0


def _constant(tight: Sequence[Clipping]) -> bool:
    """Tell whether gradients were only divided by a number: no limit does that."""
    factors = [look.factor for look in tight]
    return max(factors) - min(factors) <= 1e-3 * max(factors)


def _known(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value
