"""The base class of every sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_debug.experiment import Experiment
from lightning_debug.finding import Finding
from lightning_debug.look import Look
from lightning_debug.picture import Picture


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a sink is told about the run when it starts.

    Attributes:
        folder: The run folder, or None where nothing may be written (other ranks).
        loggers: The trainer's loggers.
        write: Prints a line without tearing the progress bar.
        record: What ran: versions, settings, hyperparameters; plain values.
    """

    folder: str | None = None
    loggers: Sequence[Any] = ()
    write: Any = print
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands.

    Attributes:
        step, epoch: How far it has come.
        looked: Number of observations that each check was shown; 0 for one that got none.
        observed: Number of observations of each kind, with the optimizer or the stage where it
            has one: ``"Modes validation"``.
        experiments: Those that were made so far.
        metrics: What the run has logged last, by name.
    """

    step: int = 0
    epoch: int = 0
    looked: Mapping[str, int] = field(default_factory=dict)
    observed: Mapping[str, int] = field(default_factory=dict)
    experiments: tuple[Experiment, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


class Sink:
    """Receives what the session has to say; overrides what it can use.

    A sink that raises is switched off for the rest of the run.

    Class attributes:
        draws: Whether it can show pictures; they are made only where a sink does.
    """

    draws: ClassVar[bool] = False

    def start(self, run: RunInfo) -> None:
        """Get ready; called when training starts."""

    def record(self, part: Mapping[str, Any]) -> None:
        """Take more of what runs, known only now, such as what the data are."""

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Take a finding: ``new`` when it appears, else when its places, count or cause change."""

    def look(self, look: Look) -> None:
        """Take all numbers of one look; hands the scalars to :meth:`stats`."""
        if look.scalars:
            self.stats(look.step, look.epoch, look.scalars)

    def stats(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """Take the numbers of one look, by name, such as ``"gradient-norm/encoder"``."""

    def picture(self, picture: Picture) -> None:
        """Take a picture of the network."""

    def state(self, state: RunState) -> None:
        """Take where the run stands: after the first looks, ever more rarely, and at the end."""

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Finish: ``status`` is ``"completed"`` or the name of the exception that ended the run."""
