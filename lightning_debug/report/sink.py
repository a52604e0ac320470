"""Writes the report when a run ends, however it ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from lightning_debug.finding import Finding
from lightning_debug.sinks.sink import RunInfo, Sink
from lightning_debug.sinks.text import encodable, plain


class HtmlReport(Sink):
    """Writes ``report.html`` into the run folder; comes after the sink that writes the folder."""

    def __init__(self) -> None:
        self._run = RunInfo()

    def start(self, run: RunInfo) -> None:
        """Remember where the run folder is."""
        self._run = run

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Read the run folder, write the report, and say where it is."""
        if self._run.folder:
            # What draws it is loaded now: the start of a run does not wait for it.
            from lightning_debug.report.page import write
            from lightning_debug.stored_run import read_run

            path = write(read_run(self._run.folder))
            text = f"report: {plain(path)}"
            self._run.write(encodable(text, getattr(sys.stdout, "encoding", None) or "utf-8"))
