"""The report of one run, as one HTML file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_debug.finding import Finding
from lightning_debug.report import charts
from lightning_debug.report.checklist import ORDER, Answer, answers
from lightning_debug.report.evidence import Evidence, evidence
from lightning_debug.report.gallery import gallery
from lightning_debug.report.rendering import clean, number, render
from lightning_debug.report.tables import Row, rows
from lightning_debug.sinks.run_folder import write_whole
from lightning_debug.sinks.text import verdict
from lightning_debug.stored_run import StoredRun

REPORT = "report.html"
MOST_FINDINGS = 100
MOST_CHARTS = 24
MOST_EXPERIMENTS = 60
MOST_NUMBERS = 30
MOST_NAME = 120
MOST_METRICS = 60
MOST_FAILURES = 30
TOO_MANY = "Only the worst findings are drawn."
ENDINGS = {
    "completed": "completed",
    "running": "running, or killed before its end",
    "interrupted": "interrupted",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finding on the page.

    Attributes:
        id: Its address on the page.
        finding: The finding.
        evidence: Its plot.
        numbers: Names and values of the numbers behind it.
        quoted: Its name, as it is typed to silence it.
        symptoms: The findings that it explains.
    """

    id: str
    finding: Finding
    evidence: Evidence
    numbers: list[Row]
    quoted: str
    symptoms: list[Entry] = field(default_factory=list)


def write(run: StoredRun, path: Path | None = None) -> Path:
    """Write the report of a run, by default into its folder, and return where it is."""
    path = path or run.folder / REPORT
    write_whole(path, page(run))
    return path


def page(run: StoredRun) -> str:
    """Return the report of a run as HTML."""
    entries, checklist = _entries(run), answers(run)
    figures = charts.figures(run)
    figures.data["evidence"] += [e.evidence.chart for e in entries.values() if e.evidence.chart]
    return render(
        "report.html.j2",
        head=_head(run),
        verdict=verdict(run.findings),
        counts=Counter(entry.finding.severity.value for entry in entries.values()),
        findings=_nested(entries),
        ids={name: entry.id for name, entry in entries.items()},
        left_out=len(run.findings) - len(entries),
        checklist=checklist,
        tallies={section: _tally(points) for section, points in checklist.items()},
        experiments=run.experiments[:MOST_EXPERIMENTS],
        gallery=gallery(run.pictures),
        record=rows(run.record.get("record")),
        metrics=rows(run.record.get("metrics"), most=MOST_METRICS),
        failures=rows(run.record.get("failures"), most=MOST_FAILURES),
        skipped=run.skipped,
        figures=figures,
    )


def _tally(points: Sequence[Answer]) -> str:
    """Return how many points came to what: ``"1 found, 4 passed"``."""
    counts = Counter(point.state for point in points)
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def _head(run: StoredRun) -> dict[str, Any]:
    record = run.record.get("record")
    model = record.get("model") if isinstance(record, Mapping) else None
    status = str(run.record.get("status", "unknown"))
    return {
        "model": str(model or "A run"),
        "folder": str(run.folder),
        "started": _moment(str(run.record.get("started", "unknown"))),
        "status": ENDINGS.get(status, f"ended by {status}"),
        "duration": _duration(run.record.get("seconds")),
        "updates": _updates(run),
    }


def _moment(text: str) -> str:
    """Return a time as it is read: ``"2026-01-31 09:30 UTC"``; words that are none as they are."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z")
    except ValueError:
        return text


def _updates(run: StoredRun) -> str:
    """Return how many updates were made, as far as a run that was killed has told."""
    steps = [look.step for look in run.stats[-1:]]
    told = run.record.get("step")
    steps += [told] if isinstance(told, int) else []
    return number(max(steps)) if steps else "unknown"


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _entries(run: StoredRun) -> dict[str, Entry]:
    """Return the findings that are shown, by name, worst first."""
    entries: dict[str, Entry] = {}
    for place, finding in enumerate(run.findings[:MOST_FINDINGS], start=1):
        name = f"finding-{place}"
        plot = Evidence(chart={}, reason=TOO_MANY)
        if place <= MOST_CHARTS:
            plot = evidence(run, finding, f"{name}-plot")
        entries[finding.name] = Entry(
            id=name,
            finding=finding,
            evidence=plot,
            numbers=rows(finding.evidence, most=MOST_NUMBERS),
            quoted=json.dumps(clean(finding.name, MOST_NAME), ensure_ascii=False),
        )
    return entries


def _nested(entries: Mapping[str, Entry]) -> list[Entry]:
    """Return the causes, with their symptoms in them."""
    causes: list[Entry] = []
    roots: dict[str, Entry] = {}
    for name, entry in entries.items():  # causes come first
        root = roots.get(entry.finding.caused_by)
        roots[name] = root or entry
        (root.symptoms if root else causes).append(entry)
    return causes
