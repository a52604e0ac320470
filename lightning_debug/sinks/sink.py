"""The base class of every sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_debug.finding import Finding


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


class Sink:
    """Receives what the session has to say; overrides what it can use.

    A sink that raises is switched off for the rest of the run.
    """

    def start(self, run: RunInfo) -> None:
        """Get ready; called when training starts."""

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Take a finding: ``new`` when it appears, else when its places, count or cause change."""

    def stats(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """Take the numbers of one look, by name, such as ``"gradient-norm/encoder"``."""

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Finish: ``status`` is ``"completed"`` or the name of the exception that ended the run."""
