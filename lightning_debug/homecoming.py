"""Findings of a run in a process that the trainer has started, back to the one that called fit."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import tempfile
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightning_debug.experiment import Experiment
from lightning_debug.finding import Finding
from lightning_debug.sinks.run_folder import write_whole


@dataclass(frozen=True)
class Returned:
    """What a run in another process has left.

    Attributes:
        findings: What it has found.
        experiments: Those that were made in it.
        failures: The parts of the debugger that failed in it.
        folder: Its run folder; None if it wrote none.
    """

    findings: list[Finding] = field(default_factory=list)
    experiments: list[Experiment] = field(default_factory=list)
    failures: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


class Homecoming:
    """A file, written by the child and taken by its parent; there is none where nobody spawns."""

    def __init__(self) -> None:
        self._home = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"lightning_debug-{uuid.uuid4().hex}.json"
        weakref.finalize(self, _remove, self._path, self._home)

    def leave(self, returned: Returned) -> None:
        """Leave what was found, if the callback was made in the process that started this one."""
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid != self._home:
            return
        left = {
            "findings": [finding.as_dict() for finding in returned.findings],
            "experiments": [experiment.as_dict() for experiment in returned.experiments],
            "failures": dict(returned.failures),
            "folder": str(returned.folder) if returned.folder else None,
        }
        write_whole(self._path, json.dumps(left))

    def take(self) -> Returned | None:
        """Return what was left, once; None where nothing was."""
        if os.getpid() != self._home or not self._path.is_file():
            return None
        left = json.loads(self._path.read_text(encoding="utf-8"))
        _remove(self._path, self._home)
        return Returned(
            findings=[Finding.from_dict(fields) for fields in left["findings"]],
            experiments=[Experiment.from_dict(fields) for fields in left["experiments"]],
            failures=left["failures"],
            folder=Path(left["folder"]) if left["folder"] else None,
        )


def _remove(path: Path, home: int) -> None:
    if os.getpid() == home:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
