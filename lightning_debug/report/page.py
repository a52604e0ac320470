"""The report of one run, as one HTML file."""

from __future__ import annotations

import html
import os
from pathlib import Path

from lightning_debug.stored_run import StoredRun

REPORT = "report.html"


def write(run: StoredRun, path: Path | None = None) -> Path:
    """Write the report of a run, by default into its folder, and return where it is."""
    path = path or run.folder / REPORT
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(html.escape(str(run.folder)), encoding="utf-8")
    os.replace(scratch, path)
    return path
