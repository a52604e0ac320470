"""Keeps everything in lists, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_debug.finding import Finding
from lightning_debug.sinks.sink import Sink


class Memory(Sink):
    """Remembers what it was given.

    Attributes:
        told: Findings in the order in which they appeared.
        scalars: The numbers of the last ``limit`` looks, with their steps.
        status: How the run ended; empty while it runs.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.told: list[Finding] = []
        self.scalars: list[tuple[int, dict[str, float]]] = []
        self.status = ""

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Keep a new finding."""
        if new:
            self.told.append(finding)

    def stats(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """Keep the numbers of a look, and forget the oldest."""
        self.scalars.append((step, dict(scalars)))
        del self.scalars[: -self.limit]

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Keep how the run ended."""
        self.status = status
