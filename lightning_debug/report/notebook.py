"""What a notebook shows of a run: a compact fragment without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_debug.experiment import Experiment
from lightning_debug.finding import Finding
from lightning_debug.report.rendering import render
from lightning_debug.sinks.text import verdict

MOST_FINDINGS = 30


def fragment(
    title: str,
    findings: Sequence[Finding],
    experiments: Sequence[Experiment] = (),
    *,
    failures: Mapping[str, str] | None = None,
    report: Path | None = None,
    state: str = "",
) -> str:
    """Return the findings of a run as a fragment of HTML; it carries its own styles.

    Args:
        title: Name of the callback.
        findings: Worst first.
        experiments: What was tried on copies of the model.
        failures: Parts of the debugger that failed, with their errors.
        report: Where the whole report is.
        state: What to say instead of a verdict, such as that there was no run.
    """
    return render(
        "notebook.html.j2",
        title=title,
        verdict=state or verdict(findings),
        findings=findings[:MOST_FINDINGS],
        more=max(0, len(findings) - MOST_FINDINGS),
        outcomes={
            word: number
            for word in ("found", "passed", "not applicable")
            if (number := sum(e.outcome == word for e in experiments))
        },
        failures=dict(failures or {}),
        report=str(report) if report else "",
    )
