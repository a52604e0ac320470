"""Findings of other processes, on their way to the first one."""

from __future__ import annotations

from collections import Counter

from lightning_debug import Finding, Severity
from lightning_debug.sinks.mail import ENOUGH, Mailbox, Mailer


class Post:
    """A shelf of notes in memory."""

    def __init__(self) -> None:
        self.rank = 1
        self.shelf: list[str] = []
        self.counts: Counter[str] = Counter()

    def count(self, name: str, more: int = 1) -> int:
        self.counts[name] += more
        return self.counts[name]

    def leave(self, note: str) -> None:
        self.shelf.append(note)

    def notes(self) -> list[str]:
        found, self.shelf = self.shelf, []
        return found

    def finish(self) -> None:
        self.count("finished")


def finding(*places: str, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(
        name="dead-relu", severity=severity, message="Dead.", where=places[0], places=places
    )


def test_a_finding_arrives_with_its_rank_a_look_later() -> None:
    post = Post()
    mailer, box = Mailer(post), Mailbox(post)
    mailer.finding(finding("a", "b"), new=True)
    assert box.collect() == []
    ((rank, arrived),) = box.collect()
    assert (rank, arrived.name, arrived.places) == (1, "dead-relu", ("a", "b"))
    assert box.collect() == []


def test_only_new_places_are_told() -> None:
    post = Post()
    mailer = Mailer(post)
    mailer.finding(finding("a"), new=True)
    mailer.finding(finding("a"), new=False)
    mailer.finding(finding("a", "b"), new=False)
    box = Mailbox(post)
    box.collect()
    assert [found.places for _, found in box.collect()] == [("a",), ("b",)]


def test_what_is_only_worth_knowing_stays_at_home() -> None:
    post = Post()
    Mailer(post).finding(finding("a", severity=Severity.INFO), new=True)
    assert post.shelf == []


def test_a_thousand_processes_do_not_all_write() -> None:
    post = Post()
    for _ in range(1000):
        Mailer(post).finding(finding("a"), new=True)
    assert len(post.shelf) == ENOUGH


def test_the_end_is_said() -> None:
    post = Post()
    Mailer(post).close([], status="completed", failures={})
    assert post.counts["finished"] == 1
