"""Writes the report when a run ends, however it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_debug.finding import Finding
from lightning_debug.sinks.sink import RunInfo, Sink


class HtmlReport(Sink):
    """Writes ``report.html`` into the run folder; comes after the sink that writes the folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def start(self, run: RunInfo) -> None:
        """Remember where the run folder is."""
        self._folder = Path(run.folder) if run.folder else None

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Read the run folder and write the report."""
        if self._folder:
            # What draws it is loaded now: the start of a run does not wait for it.
            from lightning_debug.report.page import write
            from lightning_debug.stored_run import read_run

            write(read_run(self._folder))
