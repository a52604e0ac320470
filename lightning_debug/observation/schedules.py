"""What schedulers make of the learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """One scheduler.

    Attributes:
        label: Its class, with a number where there are several.
        kind: Its class.
        optimizer: Label of its optimizer.
        interval: When it is called: ``"step"`` (each update), ``"epoch"``, or empty where nobody
            can tell.
        frequency: Of how many such times it is called once.
        late: Whether it came while training went on, as that of weight averaging does.
        plateau: Whether it waits for a metric.
        calls: How often the run calls it, or has called it where it might have been stopped early;
            0 where nobody can tell yet.
        planned: The same for a run that nothing stops early.
        by_step, by_epoch: How often it would be called if it were called at each update, or each
            epoch; 0 where nobody can tell.
        made: How often it has been called; -1 where it does not count.
        own: Whether it is called at other times than those that the trainer was told, or in
            manual optimization: interval and calls are then what was seen.
        rates: The learning rate after 0, 1, 2 ... calls, as far as it was tried out on a copy;
            of several groups the one that is nearest to its peak, scaled to the largest peak.
        ends: Whether it refuses another call after these.
        horizon: The number of calls that it was made for, if it says so; else 0.
        history: Where it could not be tried out: the learning rate at evenly spaced batches so far.
        stride: How many batches lie between two of these.
        restarts: How often another scheduler of its class took its place and began from the start.
    """

    label: str
    kind: str = ""
    optimizer: str = ""
    interval: str = "epoch"
    frequency: int = 1
    late: bool = False
    plateau: bool = False
    calls: int = 0
    planned: int = 0
    by_step: int = 0
    by_epoch: int = 0
    made: int = 0
    own: bool = False
    rates: tuple[float, ...] = ()
    ends: bool = False
    horizon: int = 0
    history: tuple[float, ...] = ()
    stride: int = 1
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """The learning rates of one optimizer.

    Attributes:
        optimizer: Its label.
        kind: Its class.
        lr: The largest of them, when training started.
        constant: Whether none of them has changed since.
        scheduled: Whether the trainer knows of a scheduler for it.
        lost: Whether a scheduler was built for it that the trainer does not know of, and that
            nobody has called.
        adapts: Whether it needs no schedule by design.
        astray: The class of a scheduler of the model that drives another optimizer, which holds
            the same parameters and is not used; empty if there is none.
    """

    optimizer: str
    kind: str = "Adam"
    lr: float = 1e-3
    constant: bool = True
    scheduled: bool = False
    lost: bool = False
    adapts: bool = False
    astray: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules(Observation):
    """The schedulers of the run, as they are planned or as they have gone.

    Attributes:
        stage: ``"early"`` (after a few updates), ``"epoch"`` (one has ended since the last time) or
            ``"end"``.
        automatic: Whether Lightning calls the schedulers.
        trial: Whether the run is one of a few batches, to try out code.
        limited: Whether the run uses only some of the batches of an epoch.
        cut: Whether the run is limited to a number of updates.
        updates, epochs: How many the run will make; 0 where nobody can tell.
        batches: Batches of an epoch; 0 where nobody can tell.
        several: Batches or processes that share one update, where these are more than one.
        batches_seen: Batches since the start of the run.
        epochs_seen: Epochs that have begun.
    """

    stage: str = "early"
    automatic: bool = True
    trial: bool = False
    limited: bool = False
    cut: bool = False
    updates: int = 0
    epochs: int = 0
    batches: int = 0
    several: tuple[int, ...] = ()
    batches_seen: int = 0
    epochs_seen: int = 0
    schedules: tuple[ScheduleState, ...] = ()
    optimizers: tuple[RateState, ...] = ()
