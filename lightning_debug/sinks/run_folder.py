"""The run folder: what a run leaves on the disk, and how it is read back."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from numbers import Real
from pathlib import Path
from typing import Any

from lightning_debug.finding import Finding, Severity, worst_first
from lightning_debug.sinks.sink import RunInfo, Sink

NAME = "lightning_debug"
RUN, FINDINGS, STATS = "run.json", "findings.jsonl", "stats.jsonl"


def new_folder(base: str | Path) -> Path:
    """Make ``base/lightning_debug``, or the first numbered one that no older run has taken."""
    Path(base).mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = Path(base) / (f"{NAME}_{number}" if number else NAME)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


class RunFolder(Sink):
    """Writes the run folder so that it can be read at any time, also after a kill -9.

    ``run.json`` is replaced as a whole; the other files only grow, by one line a write.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._head: dict[str, Any] = {}
        self._written: dict[str, Finding] = {}

    def start(self, run: RunInfo) -> None:
        """Write what runs."""
        self._folder = Path(run.folder) if run.folder else None
        self._head = {"started": _now(), "record": dict(run.record)}
        self._written = {}
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(self._folder / RUN, {"status": "running", **self._head})

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Append the finding as it is now; the last line of a name is the one that counts."""
        if self._folder:
            _append(self._folder / FINDINGS, finding.as_dict() | {"time": _now()})
            self._written[finding.name] = finding

    def stats(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """Append the numbers of a look."""
        if self._folder:
            _append(self._folder / STATS, {"step": step, "epoch": epoch, "scalars": dict(scalars)})

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Append what changed without being told, such as counts, and write how the run ended."""
        if not self._folder:
            return
        for finding in findings:
            if self._written.get(finding.name) != finding:
                self.finding(finding, new=False)
        counts = Counter(str(finding.severity) for finding in findings)
        end = {"ended": _now(), "failures": dict(failures), "counts": dict(counts)}
        _replace(self._folder / RUN, {"status": status, **self._head, **end})


@dataclass(frozen=True, kw_only=True)
class Look:
    """The numbers of one look."""

    step: int
    epoch: int
    scalars: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run folder, read back.

    Attributes:
        folder: Where it lies.
        record: What ``run.json`` holds: status, times, settings; empty where it is missing.
        findings: Worst first, causes above their symptoms.
        stats: The looks, oldest first.
    """

    folder: Path
    record: Mapping[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    stats: list[Look] = field(default_factory=list)


def find_run(path: str | Path) -> Path:
    """Return the run folder at ``path``, or the newest one in it.

    Raises:
        ValueError: If there is none.
    """
    path = Path(path)
    if any((path / name).is_file() for name in (RUN, FINDINGS, STATS)):
        return path
    inside = [run.parent for run in path.glob(f"{NAME}*/{RUN}")]
    if not inside:
        raise ValueError(
            f"{str(path)!r} is no run folder: expected a folder with {RUN}, or one that contains"
            f" {NAME}/{RUN}, such as the log directory of a trainer"
        )
    return max(inside, key=lambda folder: ((folder / RUN).stat().st_mtime_ns, folder.name))


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder as data; what is missing or torn is left out.

    Raises:
        ValueError: If it is no run folder.
    """
    folder = find_run(folder)
    findings = {
        found.name: found for line in _lines(folder / FINDINGS) if (found := _as_finding(line))
    }
    return RunRecord(
        folder=folder,
        record=_read_object(folder / RUN),
        findings=worst_first(findings.values()),
        stats=[look for line in _lines(folder / STATS) if (look := _as_look(line))],
    )


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of one."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(_json(content, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def _append(path: Path, content: Mapping[str, Any]) -> None:
    # Unbuffered: one write call a line, and nothing in our hands when the process dies.
    with open(path, "ab", buffering=0) as file:
        file.write(_json(content).encode() + b"\n")


def _json(content: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(_strict(content), allow_nan=False, indent=indent)


def _strict(value: Any) -> Any:
    """Return a value as strict JSON has it: numbers that it lacks, and all else, as words."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return str(value)


def _read_object(path: Path) -> dict[str, Any]:
    return (_parse(path.read_bytes()) or {}) if path.is_file() else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one a line; a line that is none is passed over."""
    if path.is_file():
        with open(path, "rb") as file:
            for line in file:
                if content := _parse(line):
                    yield content


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _as_finding(fields: Mapping[str, Any]) -> Finding | None:
    """Return the finding of a line, or None where a field is missing or of another kind."""
    model = Finding(name="", severity=Severity.INFO, message="").as_dict()
    try:
        if all(isinstance(fields.get(key, value), type(value)) for key, value in model.items()):
            evidence = {key: _number(value) for key, value in fields.get("evidence", {}).items()}
            places = [str(place) for place in fields.get("places", ())]
            return Finding.from_dict({**fields, "evidence": evidence, "places": places})
    except (KeyError, TypeError, ValueError):
        pass
    return None


def _as_look(fields: Mapping[str, Any]) -> Look | None:
    try:
        scalars = {key: float(value) for key, value in fields["scalars"].items()}
        return Look(step=int(fields["step"]), epoch=int(fields["epoch"]), scalars=scalars)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _number(value: Any) -> Any:
    """Return the number behind a word of :func:`_strict`, and everything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
