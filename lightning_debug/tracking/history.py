"""The runs that lie in a folder, one line each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_debug.finding import Finding, Severity
from lightning_debug.sinks.run_folder import NAME
from lightning_debug.stored_run import StoredRun, is_run, read_summary

MOST_DEPTH = 4
MOST_FOLDERS = 20_000
MOST_RUNS = 200


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a history, in words.

    Attributes:
        started, status, model, updates, last: When, how it ended, what, how long, last metric.
        findings: The worst by name, and how many more.
        commit, seed: Which code and which seed; ``"-"`` where they are not known.
        folder: Where it lies.
    """

    started: str
    status: str
    model: str
    updates: str
    last: str
    findings: str
    commit: str
    seed: str
    folder: str


def find_runs(folder: str | Path) -> list[Path]:
    """Return the run folders in a folder, at most four levels deep; links are not followed."""
    found, waiting, seen = [], [(Path(folder), 0)], 0
    while waiting and seen < MOST_FOLDERS:
        path, depth = waiting.pop()
        seen += 1
        if is_run(path):
            found.append(path)
        elif depth < MOST_DEPTH:
            waiting.extend((inside, depth + 1) for inside in _folders(path))
    return found


def newest(runs: list[Path]) -> list[StoredRun]:
    """Return the summaries of the newest runs, newest last."""
    read = [read_summary(run) for run in sorted(runs, key=_changed)[-MOST_RUNS:]]
    return sorted(read, key=lambda run: (str(run.record.get("started", "")), str(run.folder)))


def row(run: StoredRun, base: str | Path) -> Row:
    """Return the line of a run; its folder is told relative to ``base``."""
    record = _mapping(run.record.get("record"))
    seeds, git = _mapping(record.get("seeds")), _mapping(record.get("git"))
    commit = str(git.get("commit", "-"))[:8] + ("*" if git.get("dirty") else "")
    return Row(
        # The year is left out: a line has room for little.
        started=str(run.record.get("started", ""))[5:16].replace("T", " ") or "-",
        status=str(run.record.get("status", "unknown")),
        model=str(record.get("model", "-")),
        updates=str(run.record.get("step", "-")),
        last=_last(_mapping(run.record.get("metrics"))),
        findings=_findings(run.findings),
        commit=commit,
        seed=_seed(seeds),
        folder=_place(os.path.relpath(run.folder, base)),
    )


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _place(path: str) -> str:
    """Return a path without the name that all run folders have; the rest finds them too."""
    return path.removesuffix(f"/{NAME}") if path != NAME else path


def _changed(run: Path) -> tuple[int, str]:
    return run.stat().st_mtime_ns, run.name


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _seed(seeds: Mapping[str, Any]) -> str:
    if not seeds:
        return "-"
    known = seeds.get("PL_GLOBAL_SEED")
    if known is None and seeds.get("seeded"):
        known = seeds.get("torch")
    return "none" if known is None else str(known)


def _last(metrics: Mapping[str, Any]) -> str:
    """Return the metric that tells most of how a run went: a validation loss, or any loss."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    if not numbers:
        return "-"
    name = min(numbers, key=lambda name: (-("loss" in name) - 2 * ("val" in name), name))
    return f"{name} {numbers[name]:.4g}"


def _findings(findings: list[Finding]) -> str:
    alarms = [f for f in findings if f.severity >= Severity.WARNING]
    if not alarms:
        return "none"
    more = f" +{len(alarms) - 1}" if len(alarms) > 1 else ""
    return f"{alarms[0].severity} {alarms[0].name}{more}"
