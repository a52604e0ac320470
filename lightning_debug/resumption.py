"""What a run leaves in its checkpoints, for the run that goes on from one of them.

Plain words and numbers, a few kilobytes at most, so that a checkpoint still loads with
``weights_only=True`` and without this package. It is an entry of its own, written by the hooks for
checkpoints and not by ``state_dict``: Lightning would refuse two suites in one Trainer, and warn
where a run goes on without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_debug.finding import Finding

KEY = "lightning_debug"
VERSION = 1
MOST_FINDINGS = 20
MOST_WORDS = 300


@dataclass(frozen=True)
class Earlier:
    """What is known of the run that is gone on with.

    Attributes:
        looks: How often it was looked at.
        findings: What was told, by name; without evidence and advice.
    """

    looks: int = 0
    findings: Mapping[str, Finding] = field(default_factory=dict)


def packed(findings: Iterable[Finding], looks: int) -> dict[str, Any]:
    """Return what goes into a checkpoint.

    Args:
        findings: What was told, worst first.
        looks: How often the run was looked at.
    """
    told = [_short(finding).as_dict() for finding in findings]
    return {"version": VERSION, "looks": looks, "findings": told[:MOST_FINDINGS]}


def unpacked(state: object) -> Earlier:
    """Return what a checkpoint holds.

    Raises:
        ValueError: If nobody can read it: it is damaged, or was written by a newer version.
    """
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        raise ValueError(f"it is not of version {VERSION}")
    try:
        findings = [Finding.from_dict(fields) for fields in state["findings"]]
        return Earlier(int(state["looks"]), {finding.name: finding for finding in findings})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is damaged ({error!r})") from error


def _short(finding: Finding) -> Finding:
    """Return a finding without what can be long, or is the same for all runs."""
    return replace(
        finding,
        message=finding.message[:MOST_WORDS],
        where=finding.where[:MOST_WORDS],
        why="",
        fix="",
        places=(),
        evidence={},
    )
