"""A model that learns the training data by heart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import Check
from lightning_debug.curve import jitter
from lightning_debug.finding import Finding, Severity
from lightning_debug.naming import better, of_validation, words
from lightning_debug.observation import (
    Losses,
    Observation,
    RunEnd,
    Tracking,
    Validation,
    Watcher,
)

PASSES = 200


@dataclass(frozen=True)
class _Pass:
    """One validation: the loss, and the training loss of the steps before it."""

    step: int
    epoch: int
    loss: float
    train: float
    quality: float = math.nan


@dataclass(kw_only=True)
class Overfitting(Check):
    """The validation loss rises while the training loss falls.

    Why: from the best validation on, the model learns what is special about the training samples,
    and gets worse on all others. The last weights are not the best ones.

    Silent when: the rise is small, short or within the noise between validations; the loss is
    nearly zero for what it was at first; both losses rise; the two are on different scales. It is
    info where a checkpoint or an early stop guards the validation metric, where the rise is mild,
    and where the validation accuracy still goes up.

    Source: Prechelt, Early Stopping - But When? (1998).

    Args:
        validations: Validations in a row that have to lie above the best one.
        rise: Rise over the best validation loss, relative to it, for a warning.
        share: The same rise, relative to the training loss at the start.
        mild: Part of these that is enough for an info.
        fall: How much the training loss has fallen since the best validation, relative to it.
        noise: Rise in standard deviations of the validation loss around its own curve.
        scales: Largest ratio of the first validation loss to the training loss, either way,
            where the two are held to be the same loss.
        gain: Rise of an accuracy since the best validation loss that counts as better.
    """

    symptom_of = ("labels-unrelated",)
    fix = (
        'Keep the best weights: ModelCheckpoint(monitor="val_loss"), and stop in time:'
        ' EarlyStopping(monitor="val_loss"). Then weight decay, dropout, augmentation, more data'
        " or a smaller model."
    )

    validations: int = 3
    rise: float = 0.25
    share: float = 0.1
    mild: float = 0.5
    fall: float = 0.1
    noise: float = 4.0
    scales: float = 10.0
    gain: float = 0.01
    _sum: float = field(default=0.0, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)
    _step: int = field(default=-1, init=False, repr=False)
    _first: list[float] = field(default_factory=list, init=False, repr=False)
    _passes: list[_Pass] = field(default_factory=list, init=False, repr=False)
    _guards: tuple[str, ...] = field(default=(), init=False, repr=False)
    _alarmed: bool = field(default=False, init=False, repr=False)
    _quality: float = field(default=math.nan, init=False, repr=False)

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the training losses."""
        self._take(obs.values)
        yield from ()

    def on_tracking(self, obs: Tracking) -> Iterator[Finding]:
        """Remember what guards the validation metric, and how good it is."""
        self._guards = tuple(
            f"{w.name}({w.monitor!r})" for w in obs.watchers if w.guards and _guards(w)
        )
        named = [n for n in obs.metrics if better(n) == "max" and of_validation(n)]
        values = [obs.metrics[name] for name in sorted(named)]
        self._quality = next((v for v in values if 0.0 <= v <= 1.0), math.nan)
        yield from ()

    def on_validation(self, obs: Validation) -> Iterator[Finding]:
        """Compare the last validations with the best one."""
        self._take(obs.losses)
        if not math.isfinite(obs.loss) or not self._count:
            return
        train = self._sum / self._count
        self._sum, self._count = 0.0, 0
        self._passes.append(_Pass(obs.step, obs.epoch, obs.loss, train, self._quality))
        if len(self._passes) > PASSES:
            best = min(self._passes, key=lambda p: p.loss)
            first, *rest = self._passes
            self._passes = [first, *(p for p in rest[: -PASSES // 2] if p is best)]
            self._passes += rest[-PASSES // 2 :]
        for finding in self._judge(obs):
            if finding.severity >= Severity.WARNING:
                self._alarmed = True
                yield finding

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Tell what is mild or guarded, once its extent is known."""
        if not self._alarmed:
            yield from self._judge(obs)

    def _take(self, values: tuple[tuple[int, float], ...]) -> None:
        new = [(step, v) for step, v in values if step > self._step and math.isfinite(v)]
        self._first += [value for _, value in new[: 5 - len(self._first)]]
        self._sum += sum(value for _, value in new)
        self._count += len(new)
        self._step = new[-1][0] if new else self._step

    def _best(self) -> _Pass | None:
        """Return the best validation, if enough have come after it and the losses compare."""
        if len(self._passes) <= self.validations or not self._first:
            return None
        first = self._passes[0]
        if min(p.loss for p in self._passes) < 0 or min(first.train, first.loss) <= 0:
            return None
        if not 1 / self.scales <= first.loss / first.train <= self.scales:
            return None
        best = min(self._passes, key=lambda p: p.loss)
        after = [p for p in self._passes if p.step > best.step]
        return best if len(after) >= self.validations else None

    def _judge(self, obs: Observation) -> Iterator[Finding]:
        best = self._best()
        if best is None:
            return
        last = self._passes[-self.validations :]
        now = last[-1]
        risen = min(p.loss for p in last) - best.loss
        around = self.noise * jitter([p.loss for p in self._passes if p.step >= best.step])
        usual = median(p.loss for p in sorted(self._passes, key=lambda p: p.loss)[:3])
        fallen = now.train <= (1 - self.fall) * best.train and now.train < now.loss
        if not fallen or risen <= around:
            return
        # The best one may be best by luck; the rise has to hold against its neighbours too.
        lucky = min(p.loss for p in last) - usual
        strong = max(self.rise * best.loss, self.share * median(self._first))
        if min(risen, lucky) < self.mild * strong:
            return
        improving = now.quality - best.quality >= self.gain
        guarded = bool(self._guards)
        alarming = min(risen, lucky) >= strong and not improving and not guarded
        message = (
            f"The validation loss has risen from {best.loss:.4g} (step {best.step}, epoch"
            f" {best.epoch}) to {now.loss:.4g} (step {now.step}, epoch {now.epoch}), while the"
            f" training loss has fallen from {best.train:.4g} to {now.train:.4g}."
        )
        if guarded:
            message += f" {self._guards[0]} guards against it."
        elif improving:
            message += f" The accuracy still goes up, to {now.quality:.3g}."
        severity = Severity.WARNING if alarming else Severity.INFO
        yield self.finding(
            obs,
            message,
            where="validation",
            severity=severity,
            best=best.loss,
            last=now.loss,
            train_then=best.train,
            train_now=now.train,
        )


def _guards(watcher: Watcher) -> bool:
    """Tell whether it watches, the right way round, what may be of validation data."""
    training = watcher.monitor == "loss" or any(
        w.startswith("train") for w in words(watcher.monitor)
    )
    return not training and better(watcher.monitor) in ("", watcher.mode)
