"""Findings as plain text that is safe to show anywhere."""

from __future__ import annotations

from lightning_debug.finding import Finding


def plain(text: object) -> str:
    """Return one line without control characters.

    Names come from the user's run and can hold anything: escape sequences that move the cursor,
    line breaks that fake another line, marks that reverse the direction of writing.
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


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
