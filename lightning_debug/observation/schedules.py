"""What schedulers make of the learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """One scheduler.

    Attributes:
        kind: Its class.
        optimizer: Label of its optimizer.
    """

    kind: str
    optimizer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules(Observation):
    """The schedulers of the run, as they are planned or as they have gone."""

    schedules: tuple[ScheduleState, ...] = ()
