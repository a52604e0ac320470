"""Findings as plain text that is safe to show anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning_debug.finding import Finding, Severity


def plain(text: object) -> str:
    """Return one line without control characters.

    Names come from the user's run and can hold anything: escape sequences that move the cursor,
    line breaks that fake another line, marks that reverse the direction of writing.
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def encodable(text: str, encoding: str) -> str:
    """Return a text whose characters a terminal can show; the others are spelled out."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def verdict(findings: Sequence[Finding]) -> str:
    """Return what was found in a few words: ``"2 errors, 1 warning"``."""
    if all(finding.severity is Severity.INFO for finding in findings):
        return "no warnings or errors"
    return tally(findings)


def tally(findings: Sequence[Finding]) -> str:
    """Return how many there are: ``"2 errors, 1 warning; 1 of them explained by another"``."""
    severities = Counter(finding.severity for finding in findings)
    parts = [
        f"{number} {severity}" + "s" * (number > 1 and severity > Severity.INFO)
        for severity in reversed(Severity)
        if (number := severities[severity])
    ]
    explained = sum(bool(finding.caused_by) for finding in findings)
    return ", ".join(parts) + (f"; {explained} of them explained by another" if explained else "")


def headline(finding: Finding) -> str:
    """Return which finding, where and since when: ``"dead-relu at encoder.0, step 12"``.

    Of many places only the first is named: the message lists the others.
    """
    first, *others = finding.places or (finding.where,)
    place = f" at {first}" if first else ""
    more = f" and {len(others)} more" if others else ""
    return plain(f"{finding.name}{place}{more}, step {finding.step}")


def paragraph(finding: Finding) -> str:
    """Return a whole finding in one line, for loggers that show text."""
    parts = [f"{finding.severity}: {headline(finding)}. {plain(finding.message)}"]
    if finding.fix:
        parts.append(f"Fix: {plain(finding.fix)}")
    if finding.caused_by:
        parts.append(f"Explained by {plain(finding.caused_by)}.")
    return " ".join(parts)
