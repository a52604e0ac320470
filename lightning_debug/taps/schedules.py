"""Follows schedulers: how often they are called, and what becomes of the learning rates."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_debug.observation import Observation, Plan, RateState, Schedules, ScheduleState
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.wiring import Wiring

GROUPS = 8
POINTS = 2048
FURTHER = 8
LEAST = 2000
EARLY = 4
SCHEDULERS = (LRScheduler, ReduceLROnPlateau)
DECLARED = ("total_steps", "T_max", "total_iters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A scheduler, and when it is called.

    Attributes:
        interval: ``"step"`` or ``"epoch"``.
        frequency: Of how many steps or epochs it is called once.
        plateau: Whether it waits for a metric.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    plateau: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What schedulers have to do with, apart from the plan of the run.

    Attributes:
        schedulers: Returns those that the trainer knows, as they are now.
        trial: Whether the run is one of a few batches, to try out code.
        limited: Whether it uses only some of the batches of an epoch.
        cut: Whether it is limited to a number of updates.
        open: Whether something may stop it early.
    """

    schedulers: Callable[[], Sequence[Scheduled]] = tuple
    trial: bool = False
    limited: bool = False
    cut: bool = False
    open: bool = False


class ScheduleTap(LookTap):
    """Tries schedulers out on a copy when training starts, and counts their calls from then on.

    Args:
        model: Asked for schedulers that it keeps.
        wiring: Knows the optimizers.
        plan: What the run is set up to do.
        course: The schedulers, and what else bears on them.
        rehearse: Returns what a scheduler makes of the learning rate in so many calls, and
            whether it refuses the next.
        resumed: Whether training goes on from a checkpoint.
    """

    name = "the tap on schedulers"
    kinds = (Schedules,)

    def __init__(
        self,
        model: Module,
        wiring: Wiring,
        plan: Plan,
        course: Course,
        rehearse: Callable[[object, int], tuple[tuple[float, ...], bool]],
        *,
        resumed: bool = False,
    ) -> None:
        self._model = model
        self._wiring, self._plan, self._course = wiring, plan, course
        self._rehearse, self._resumed = rehearse, resumed
        self._batches = 0
        self._epoch = self._first = 0
        self._shown = -1
        self._tracks: list[_Track] = []
        self._rates: dict[int, _Rates] = {}

    def start(self, step: int, epoch: int) -> Iterable[Observation]:
        """Try the schedulers out."""
        self._epoch = self._first = epoch
        plan = self._plan
        spread = max(1, plan.accumulate) * max(1, plan.processes)
        calls = max(LEAST, 2 * plan.updates * spread, 2 * plan.epochs)
        for known in self._course.schedulers():
            track = _Track(known)
            if not self._resumed:
                track.rates, track.ends = self._rehearse(known.scheduler, calls)
                if track.rates and track.rates[0] < track.rates[-1] == max(track.rates):
                    # A long warm-up, with its peak still to come.
                    longer = FURTHER * calls
                    track.rates, track.ends = self._rehearse(known.scheduler, longer)
            self._tracks.append(track)
        self._follow()
        return ()

    def passes(self, step: int, epoch: int) -> None:
        """Read the learning rates and the counters; plain numbers all of them."""
        self._epoch = epoch
        self._follow()
        self._batches += 1

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Show how it goes, after the first few updates and once an epoch."""
        first = self._shown < 0
        if epoch > self._shown and self._batches > EARLY * self._plan.accumulate:
            self._follow()
            self._shown = epoch
            yield self._observation("early" if first else "epoch", step, epoch)

    def rest(self, step: int, epoch: int) -> Iterable[Observation]:
        """Show how it went."""
        self._follow()
        yield self._observation("end", step, epoch)

    def _follow(self) -> None:
        known = self._course.schedulers()
        for index, now in enumerate(known):
            if index == len(self._tracks):
                self._tracks.append(_Track(now, late=self._batches > 0))
            self._tracks[index].follow(now)
        for optimizer in self._wiring.optimizers:
            if id(optimizer) not in self._rates:
                self._rates[id(optimizer)] = _Rates(optimizer)
            self._rates[id(optimizer)].follow()

    def _observation(self, stage: str, step: int, epoch: int) -> Schedules:
        plan, course = self._plan, self._course
        epochs = self._epochs()
        shared = {plan.accumulate, plan.processes, plan.accumulate * plan.processes}
        known = self._course.schedulers()
        states = [
            self._state(track, len(known), index, stage, epochs)
            for index, track in enumerate(self._tracks)
        ]
        return Schedules(
            step=step,
            epoch=epoch,
            stage=stage,
            automatic=plan.automatic,
            trial=course.trial,
            limited=course.limited,
            cut=course.cut,
            updates=plan.updates,
            epochs=epochs,
            batches=plan.batches,
            several=tuple(sorted(n for n in shared if n > 1)),
            batches_seen=self._batches,
            epochs_seen=self._epoch - self._first + (1 if self._batches else 0),
            schedules=tuple(states),
            optimizers=tuple(self._optimizers(known, stage)),
        )

    def _epochs(self) -> int:
        """Return the epochs that the run will make, also where it counts updates; 0 if unknown."""
        plan = self._plan
        if not plan.updates or not plan.batches:
            return plan.epochs
        needed = math.ceil(plan.updates / math.ceil(plan.batches / plan.accumulate))
        return min(needed, plan.epochs) if plan.epochs else needed

    def _state(
        self, track: _Track, many: int, index: int, stage: str, epochs: int
    ) -> ScheduleState:
        now, plan = track.now, self._plan
        kind = type(now.scheduler).__name__
        by_step, by_epoch = self._planned("step", 1, epochs), self._planned("epoch", 1, epochs)
        interval = now.interval
        calls = planned = self._planned(interval, now.frequency, epochs)
        own = self._own(track, stage)
        if own:
            seen, calls = self._measured(track, stage, epochs)
            interval = seen or (interval if plan.automatic and not track.made else "")
            planned, by_step = calls, plan.batches * epochs or self._batches
        elif self._open and stage != "end":
            calls = 0
        elif self._open:
            calls = max(0, track.made)
            by_step = math.ceil(self._batches / max(1, plan.accumulate))
            by_epoch = self._epoch - self._first + 1
        optimizer = getattr(now.scheduler, "optimizer", None)
        return ScheduleState(
            label=f"{kind} {index}" if many > 1 else kind,
            kind=kind,
            optimizer=self._wiring.label(optimizer) if isinstance(optimizer, Optimizer) else "",
            interval=interval,
            frequency=now.frequency,
            late=track.late,
            plateau=now.plateau,
            calls=calls,
            planned=planned,
            by_step=by_step,
            by_epoch=by_epoch,
            made=track.made,
            own=own,
            rates=track.rates if own or self._new(stage) else (),
            ends=track.ends,
            horizon=_declared(now.scheduler),
            history=() if self._resumed or track.replaced else tuple(track.history.values),
            stride=track.history.stride,
            restarts=track.restarts,
        )

    def _planned(self, interval: str, frequency: int, epochs: int) -> int:
        """Return how often Lightning calls a scheduler in this run; 0 where nobody can tell."""
        plan = self._plan
        if interval == "epoch":
            return epochs // frequency
        if not plan.batches or frequency == 1:
            return plan.updates // frequency
        # Lightning counts the batches of the epoch, and looks only where an update is made.
        last = plan.batches % plan.accumulate > 0 and plan.batches % frequency == 0
        return (plan.batches // math.lcm(plan.accumulate, frequency) + last) * epochs

    def _new(self, stage: str) -> bool:
        """Tell whether the whole schedule can now be held against something new."""
        return stage == "early" or (stage == "end" and (self._open or self._shown < 0))

    @property
    def _open(self) -> bool:
        """Tell whether nobody knows how long the run will be."""
        return self._course.open or not (self._plan.updates and self._epochs())

    def _own(self, track: _Track, stage: str) -> bool:
        """Tell whether a scheduler is called when the user's code says, and not the trainer's."""
        now = track.now
        if not self._plan.automatic:
            return True
        if track.made < 0 or track.replaced or now.plateau or now.frequency > 1:
            return False
        past = self._epoch - self._first + (stage == "end")
        if now.interval == "epoch":
            return abs(track.made - past) > 1
        expected = self._batches / max(1, self._plan.accumulate)
        return abs(track.made - expected) > 2 + 0.25 * expected + past

    def _measured(self, track: _Track, stage: str, epochs: int) -> tuple[str, int]:
        """Return when the user's own code calls a scheduler, and how often it will; or nothing."""
        past = self._epoch - self._first + (stage == "end")
        if track.made < 1 or past < 1 or (stage == "epoch" and past > 1):
            return "", 0
        end, made = stage == "end", track.made
        if made <= past + 1 and self._batches > 2 * past:
            return "epoch", made if end else round(made / past * epochs)
        total = self._plan.batches * epochs
        calls = made if end or not total else round(made / self._batches * total)
        return ("step" if made >= 0.1 * self._batches else ""), calls

    def _optimizers(self, known: Sequence[Scheduled], stage: str) -> Iterable[RateState]:
        driven = {id(getattr(one.scheduler, "optimizer", None)) for one in known}
        kept = [one for one in _kept(self._model) if id(one.optimizer) not in driven]
        for optimizer in self._wiring.optimizers:
            rates = self._rates.get(id(optimizer))
            if rates is None:
                continue
            waits = any(one.optimizer is optimizer for one in kept)
            built = (rates.built or waits) and id(optimizer) not in driven
            constant = rates.constant
            # To search for it takes a while, so it is done twice at most.
            due = stage == "end" or (stage == "epoch" and self._epoch - self._first == 3)
            yield RateState(
                optimizer=self._wiring.label(optimizer),
                kind=type(optimizer).__name__,
                lr=rates.first,
                constant=constant,
                scheduled=id(optimizer) in driven or built,
                lost=due and built and constant and not _called(optimizer),
                adapts=_adapts(optimizer),
                astray=self._astray(optimizer, kept) if due and constant else "",
            )

    def _astray(self, optimizer: Optimizer, kept: Iterable[Any]) -> str:
        """Return the class of a scheduler that drives an unused twin of an optimizer."""
        known = self._wiring.optimizers
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for one in kept:
            groups = one.optimizer.param_groups
            shared = any(id(p) in held for group in groups for p in group["params"])
            if shared and not any(one.optimizer is other for other in known):
                return type(one).__name__
        return ""


@dataclass
class _History:
    """Learning rates at evenly spaced batches; their number is bounded."""

    values: list[float] = field(default_factory=list)
    stride: int = 1
    count: int = 0

    def add(self, value: float) -> None:
        """Take in the next."""
        if self.count % self.stride == 0:
            self.values.append(value)
        self.count += 1
        if len(self.values) >= POINTS:
            self.values = self.values[::2]
            self.stride *= 2


class _Track:
    """One scheduler through the run."""

    def __init__(self, known: Scheduled, *, late: bool = False) -> None:
        self.now = known
        self.late = late
        self.rates: tuple[float, ...] = ()
        self.ends = False
        self.history = _History()
        self.restarts = 0
        self.replaced = False
        self._last = _count(known.scheduler)
        self.made = -1 if self._last is None else 0

    def follow(self, now: Scheduled) -> None:
        """Count the calls since the last time."""
        count = _count(now.scheduler)
        if now.scheduler is not self.now.scheduler:
            same = type(now.scheduler) is type(self.now.scheduler)
            fell = count is not None and self._last is not None and count < self._last
            self.restarts += same and fell
            self._last = 0 if count is not None else None
            # What was tried out was another one.
            self.replaced, self.rates, self.ends = True, (), False
        if count is not None and self._last is not None:
            self.made += max(0, count - self._last)
        self.now, self._last = now, count
        optimizer = getattr(now.scheduler, "optimizer", None)
        rate = max(_rates(optimizer), default=math.nan) if optimizer is not None else math.nan
        if not self.rates and math.isfinite(rate):
            self.history.add(rate)


class _Rates:
    """The learning rates of one optimizer through the run."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._start = _rates(optimizer)
        self.first = max(self._start, default=math.nan)
        self.constant = True
        self.built = self._wrapped = False

    def follow(self) -> None:
        """See whether they have changed, and whether a scheduler has been built for them."""
        self.constant = self.constant and _rates(self._optimizer) == self._start
        if not self._wrapped and hasattr(self._optimizer.step, "_wrapped_by_lr_sched"):
            self._wrapped = True
            # One that has stepped since may have been driven by a tuner, which is done with it.
            self.built = not getattr(self._optimizer, "_opt_called", False)


def _rates(optimizer: Any) -> list[float]:
    """Return the learning rates of a few groups, except for those that lie on a device."""
    groups = optimizer.param_groups
    few = groups[:: max(1, -(-len(groups) // GROUPS))]
    values = (group.get("lr") for group in few)
    return [
        float(value)
        for value in values
        if isinstance(value, (int, float))
        or (isinstance(value, Tensor) and value.device.type == "cpu")
    ]


def _count(scheduler: Any) -> int | None:
    """Return how often a scheduler has been called; None where it does not say."""
    last = getattr(scheduler, "last_epoch", None)
    if isinstance(last, int):
        return last
    parts = getattr(scheduler, "_schedulers", ())
    counts = [count for part in parts if (count := _count(part)) is not None]
    return max(counts, default=None)


def _declared(scheduler: Any) -> int:
    """Return the number of calls that a scheduler says it was made for; 0 if it does not."""
    if getattr(scheduler, "_schedulers", ()):
        return 0
    values = (getattr(scheduler, name, None) for name in DECLARED)
    milestones = getattr(scheduler, "milestones", None)
    if isinstance(milestones, Counter) and milestones:
        return int(max(milestones))
    return next((int(v) for v in values if isinstance(v, (int, float)) and v > 0), 0)


def _called(optimizer: Optimizer) -> bool:
    """Tell whether a scheduler of an optimizer is alive that has been called."""
    alive = (one for one in gc.get_objects() if issubclass(type(one), SCHEDULERS))
    mine = [one for one in alive if getattr(one, "optimizer", None) is optimizer]
    return any((_count(one) or 0) > 0 for one in mine)


def _kept(model: Module) -> list[Any]:
    """Return the schedulers that a model keeps as attributes."""
    values = (v for module in model.modules() for v in vars(module).values())
    flat = (one for v in values for one in (v if isinstance(v, (list, tuple)) else (v,)))
    return [one for one in flat if isinstance(one, SCHEDULERS)]


def _adapts(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer needs no schedule: it searches lines, or averages (has modes)."""
    searches = any("line_search_fn" in group for group in optimizer.param_groups)
    averages = callable(getattr(optimizer, "train", None)) and callable(
        getattr(optimizer, "eval", None)
    )
    return searches or averages
