"""Findings of other processes, for the first one: it tells of those of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from lightning_debug.finding import Finding, Severity
from lightning_debug.sinks.sink import Sink

# Where more processes than that have told of the same places, the others need not.
ENOUGH = 8
MOST_PLACES = 64
LONGEST = 2_000


class Post(Protocol):
    """Carries notes to the first process."""

    rank: int

    def count(self, name: str, more: int = 1) -> int:
        """Add to a number that all processes share, and return it."""

    def leave(self, note: str) -> None:
        """Leave a note."""

    def notes(self) -> list[str]:
        """Return the notes that nobody has read yet."""

    def finish(self) -> None:
        """Say that no more will come."""


class Mailer(Sink):
    """Leaves the warnings and errors of a process for the first one."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._told: dict[str, set[str]] = {}

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Leave a finding, once for each of its places."""
        places = finding.places or (finding.where,)
        told = self._told.setdefault(finding.name, set())
        fresh = [place for place in places[:MOST_PLACES] if place not in told]
        if finding.severity < Severity.WARNING or not fresh:
            return
        told.update(fresh)
        if self._post.count(f"told/{finding.name}/{'|'.join(fresh)}") <= ENOUGH:
            fields = finding.as_dict() | {"places": fresh, "where": fresh[0]}
            fields["message"] = finding.message[:LONGEST]
            self._post.leave(json.dumps({"rank": self._post.rank, "finding": fields}))

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Say that this process has told everything."""
        self._post.finish()


class Mailbox:
    """Keeps what other processes have found for a look, in which the first may see it itself."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._waiting: list[tuple[int, Finding]] = []

    def collect(self) -> list[tuple[int, Finding]]:
        """Return what was there the last time already, with the rank of the process."""
        ready = self._waiting
        self._waiting = [_opened(note) for note in self._post.notes()]
        return ready


def _opened(note: str) -> tuple[int, Finding]:
    fields = json.loads(note)
    return int(fields["rank"]), Finding.from_dict(fields["finding"])
