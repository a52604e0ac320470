"""A loss that stays where it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean, median, pstdev

from lightning_debug.chance import chance
from lightning_debug.check import NO_WAY_BACK, NO_WAY_THROUGH, Check
from lightning_debug.curve import Curve, blocks, direction
from lightning_debug.finding import Finding
from lightning_debug.observation import (
    LossCalls,
    Losses,
    Observation,
    RunEnd,
    RunStart,
    Updates,
)


@dataclass(frozen=True)
class _Look:
    """The loss functions of one step: their sum, what knowing nothing gives, and the total."""

    step: int
    value: float
    chance: float
    total: float
    function: str
    place: str
    classes: int = 0

    @property
    def excess(self) -> float:
        return self.value / self.chance - 1.0


@dataclass(kw_only=True)
class LossNotDecreasing(Check):
    """After many updates the loss is no better than a constant prediction, and does not fall.

    Why: the model has learned nothing. Its outputs do not depend on what it is shown, inputs and
    targets do not belong together, or the steps are far too small, too large or go uphill.

    Silent when: the loss is below what a constant gets (however slowly it still falls), so also
    where it has converged or started from trained weights; any loss function of the step is; the
    total is not made of these loss functions alone; the learning rate is still warming up, or has
    decayed; there are several optimizers; no constant prediction can be put into the loss:
    contrastive losses, targets that the model makes (reinforcement learning), noise as target
    (diffusion).

    Source: Karpathy, A Recipe for Training Neural Networks (2019), "overfit one batch".

    Args:
        updates: Fewest updates between the end of a warm-up and of a decay.
        full: Share of the largest learning rate at which a warm-up is over.
        off: Share of it at which a decayed schedule has ended.
        long: Updates that are enough within the first epoch.
        looks: Fewest looks at which the loss was held against constant predictions.
        better: How far below chance a loss is better than chance, relative to it, beyond the
            standard error of the mean over the looks.
        worse: How far above chance a loss that goes uphill has to be.
        fall: Mann-Kendall score of the curve below which it falls; half of it for the second half
            of a long run, which is held still already where the first half came down to chance.
        steady: Largest ratio between the shares that the loss functions have in the total.
        patience: Looks in a row.
    """

    symptom_of = (
        "precision-underflow",
        "unregistered-module",
        "gradients-not-cleared",
        "accumulation-not-scaled",
        *NO_WAY_BACK,
        "learning-rate-too-high",
        "update-too-large",
        "scheduler-misconfigured",
        "learning-rate-too-low",
        "update-too-small",
        "clipping-too-tight",
        "clipping-missing",
        "batch-size-too-small",
        *NO_WAY_THROUGH,
        "initial-loss",
        "input-not-normalized",
        "constant-input",
        "labels-unrelated",
        "data-not-shuffled",
        "constant-target",
        "loss-task-mismatch",
        "not-log-probabilities",
        "probabilities-as-logits",
        "target-broadcast",
        "constant-loss-terms",
        "regularization-dominates",
        "loss-scale-imbalance",
    )
    fix = (
        "Train on one batch first, Trainer(overfit_batches=1): if that fails too, look for a"
        " reshape, detach() or wrong axis between input and loss; if it works, check that inputs"
        " and targets belong together. Then try 10 times the learning rate, and a tenth of it."
    )

    updates: int = 150
    full: float = 0.5
    off: float = 0.1
    long: int = 1000
    looks: int = 4
    better: float = 0.01
    worse: float = 0.5
    fall: float = -1.6
    steady: float = 1.3
    patience: int = 2
    _curve: Curve = field(default_factory=Curve, init=False, repr=False)
    _looks: list[_Look] = field(default_factory=list, init=False, repr=False)
    _rates: list[tuple[int, float]] = field(default_factory=list, init=False, repr=False)
    _several: bool = field(default=False, init=False, repr=False)
    _optimizers: set[str] = field(default_factory=set, init=False, repr=False)
    _pending: _Look | None = field(default=None, init=False, repr=False)
    _foreign: bool = field(default=False, init=False, repr=False)
    _start: tuple[int, int] | None = field(default=None, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember who trains what."""
        self._optimizers |= {p.optimizer for p in obs.parameters.values() if p.optimizer}
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Remember the learning rate."""
        self._optimizers.add(obs.optimizer)
        rate = max((u.lr for u in obs.parameters.values()), default=0.0)
        self._rates.append((obs.step, rate))
        if len(self._rates) > 200:
            del self._rates[1:-100:2]
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Hold the loss functions against constant predictions."""
        self._pending = self._compare(obs)
        yield from ()

    def _compare(self, obs: LossCalls) -> _Look | None:
        referenced = [call for call in obs.calls if call.references]
        if not referenced:
            return None
        values = [call.value for call in obs.calls]
        chances = [chance(call) for call in obs.calls]
        numbers = [*values, *chances]
        known = len(referenced) == len(obs.calls) and all(map(math.isfinite, numbers))
        self._foreign = not known
        if known and any(v < (1 - self.better) * c for v, c in zip(values, chances, strict=True)):
            # One of them is better than chance: the look says so, whatever the others do.
            pairs = zip(values, chances, strict=True)
            value, reference = min(pairs, key=lambda pair: pair[0] / pair[1])
        elif known:
            value, reference = sum(values), sum(chances)
        else:
            return None
        first = obs.calls[0]
        return _Look(
            obs.step, value, reference, math.nan, first.function, first.place, first.classes
        )

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Judge the curve, where the look has a reference."""
        if self._start is None:
            self._start = obs.step, obs.epoch
        self._curve.add(obs.values)
        look, self._pending = self._pending, None
        if look is not None and obs.values:
            total = obs.values[-1][1]
            self._looks.append(replace(look, total=total))
            if len(self._looks) > 200:
                del self._looks[1:-100:2]
        yield from self._judge(obs, 0)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge the whole run."""
        if obs.completed:
            yield from self._judge(obs, 1)

    def _judge(self, obs: Observation, patience: int) -> Iterator[Finding]:
        begin, end = self._span()
        done = end - begin
        if self._start is None or len(self._optimizers) > 1 or self._foreign:
            return
        if done < self.updates or (obs.epoch == self._start[1] and done < self.long):
            return
        # A loss of exactly 0 is one that is fully met.
        met = begin + 0.1 * done
        looks = [look for look in self._looks if met <= look.step <= end and look.value != 0.0]
        if len(looks) < self.looks or not self._alone(looks):
            return
        excess, error = self._excess(looks, begin + 0.5 * done, end)
        sign = -1.0 if median(look.total / look.value for look in looks) < 0 else 1.0
        if excess > -self.better - error and self._still(begin, done, sign):
            yield self._tell(obs, looks, patience, excess=excess, sign=sign)

    def _excess(self, looks: list[_Look], since: float, end: float) -> tuple[float, float]:
        """Return how far the loss lies above chance, relative to it, and the standard error."""
        if not looks[-1].classes:
            # Batches differ much in how well a constant does, so each is its own measure.
            paired = [look.excess for look in looks]
            return fmean(paired), pstdev(paired) / math.sqrt(len(paired))
        factor = median(look.total / look.value for look in looks)
        values = [value / factor for value in self._curve.values(since, end + 1)]
        chances = [look.chance for look in self._looks]
        level, reference = fmean(values), fmean(chances)
        error = math.hypot(
            pstdev(values) / math.sqrt(len(values)), pstdev(chances) / math.sqrt(len(chances))
        )
        return level / reference - 1.0, error / reference

    def _still(self, begin: float, done: float, sign: float) -> bool:
        """Tell whether the loss functions have not fallen: over the run, or over a long half."""
        scores = [
            sign * direction(blocks(self._curve.values(begin + share * done, begin + done + 1), 20))
            for share in (0.1, 0.5)
        ]
        long = done >= 2 * self.updates
        # The shorter the curve, the less it takes to look still.
        return scores[0] > self.fall or (long and scores[1] > 0.5 * self.fall)

    def _tell(
        self, obs: Observation, looks: list[_Look], patience: int, *, excess: float, sign: float
    ) -> Finding:
        last = looks[-self.looks :]
        value = median(look.value for look in last)
        reference = median(look.chance for look in last)
        look, fix = last[-1], self.fix
        verb = "has risen to" if excess > self.worse else "is still"
        message = (
            f"After {self._curve.last_step + 1} updates {look.function} {verb} {value:.4g}; a"
            f" constant prediction gives {reference:.4g} on the same batches."
        )
        if excess > self.worse or sign < 0:
            fix = (
                "Check the sign of the loss and of the step (a minus before the loss,"
                " maximize=True), then lower the learning rate to a tenth."
            )
        if sign < 0:
            message += " It enters the total with a minus sign, so each step makes it worse."
        return self.finding(
            obs,
            message,
            where=look.place,
            fix=fix,
            patience=patience,
            loss=value,
            reference=reference,
        )

    def _span(self) -> tuple[float, float]:
        """Return the steps between which the learning rate is near its largest value."""
        highest = max((rate for _, rate in self._rates), default=0.0)
        begin = next((step for step, rate in self._rates if rate >= self.full * highest), math.inf)
        off = (step for step, rate in self._rates if step > begin and rate < self.off * highest)
        return begin, min(self._curve.last_step, next(off, math.inf))

    def _alone(self, looks: list[_Look]) -> bool:
        """Tell whether the total is made of the loss functions alone, up to a factor."""
        shares = sorted(abs(look.total / look.value) for look in looks if look.value > 0)
        if not shares or not all(math.isfinite(share) for share in shares):
            return False
        cut = len(shares) // 10
        return shares[-1 - cut] <= self.steady * max(shares[cut], 1e-30)
