"""Streaks, grouping, causes, filters and containment, with checks made for the purpose."""

import math
from dataclasses import dataclass, field
from unittest.mock import sentinel

import pytest

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Gradients, Losses, RunEnd, Updates, Validation
from lightning_debug.picture import Histogram
from lightning_debug.session import Session
from lightning_debug.sinks.memory import Memory
from lightning_debug.sinks.sink import RunInfo, Sink
from tests.build_updates import gradients, losses


@dataclass(kw_only=True)
class Orphan(Check):
    """Answers yes for each orphan; one called "slow" needs more looks."""

    fix = "Adopt it."

    def on_gradients(self, obs):
        """List the orphans."""
        for name in obs.orphans:
            severity = Severity.ERROR if name == "worse" else None
            patience = 4 if name == "slow" else 0
            yield self.finding(
                obs, f"{name} is alone.", where=name, severity=severity, patience=patience
            )


@dataclass(kw_only=True)
class Rising(Check):
    """Answers yes to any loss above 1."""

    fix = "Lower it."
    severity = Severity.ERROR
    symptom_of = ("orphan",)

    def on_losses(self, obs):
        """Compare the last loss."""
        if obs.values[-1][1] > 1.0:
            yield self.finding(obs, "The loss is high.", where="loss")


@dataclass(kw_only=True)
class Counting(Check):
    """Remembers how often it was asked."""

    fix = "Count."
    asked: int = field(default=0, init=False)

    def on_losses(self, obs):
        """Answer yes the second time."""
        self.asked += 1
        if self.asked == 2:
            yield self.finding(obs, "Twice.", where="loss")


@dataclass(kw_only=True)
class Raising(Check):
    """Raises."""

    fix = "Mend it."

    def on_losses(self, obs):
        """Raise."""
        raise RuntimeError("a bug of ours")


class Breaking(Sink):
    """Raises at the first finding."""

    def __init__(self):
        self.calls = 0

    def finding(self, finding, *, new):
        self.calls += 1
        raise OSError("disk full")


class Listening(Sink):
    """Keeps everything that it is told."""

    def __init__(self):
        self.told = []

    def finding(self, finding, *, new):
        self.told.append((finding, new))


def look(*orphans, step=0, **changes):
    return gradients({}, orphans=orphans, step=step, **changes)


def run(session, *observations):
    for obs in observations:
        session.observe(obs)
    return session


def test_told_once_after_patience():
    memory = Memory()
    session = Session([Orphan(patience=3)], [memory])
    run(session, look("a", step=0), look("a", step=1))
    assert session.findings == []
    run(session, look("a", step=2), look("a", step=3))
    assert len(memory.told) == 1
    [finding] = session.findings
    assert (finding.name, finding.where, finding.places) == ("orphan", "a", ("a",))
    assert (finding.step, finding.count) == (2, 2)


def test_a_gap_starts_the_streak_anew():
    session = Session([Orphan(patience=3)])
    run(session, look("a"), look("a"), look(), look("a"), look("a"))
    assert session.findings == []
    run(session, look("a"))
    assert len(session.findings) == 1


def test_told_again_after_it_went_away():
    listening = Listening()
    session = Session([Orphan(patience=2)], [listening])
    run(session, look("a", step=0), look("a", step=1), look(), look("a", step=8), look("a", step=9))
    assert [new for _, new in listening.told] == [True, False]
    [finding] = session.findings
    assert (finding.step, finding.count) == (1, 2), "the first time stays"


def test_places_are_grouped_into_one_finding():
    listening = Listening()
    session = Session([Orphan(patience=2)], [listening])
    run(session, look("a", "b"), look("a", "b"), look("a", "b", "c"), look("a", "b", "c"))
    [finding] = session.findings
    assert finding.places == ("a", "b", "c")
    assert finding.where == "a, b, c"
    assert finding.message == "a is alone. The same holds for b, c."
    assert [(f.places, new) for f, new in listening.told] == [
        (("a", "b"), True),
        (("a", "b", "c"), False),
    ]


def test_many_places_are_counted():
    names = [f"layer{i}" for i in range(20)]
    [finding] = run(Session([Orphan()]), look(*names)).findings
    assert finding.where.endswith("layer5 and 14 more")
    assert finding.message.endswith("layer5 and 14 more.")
    assert len(finding.places) == 20


def test_the_worst_place_speaks_for_all():
    [finding] = run(Session([Orphan()]), look("a", "worse", "b")).findings
    assert finding.severity is Severity.ERROR
    assert finding.message.startswith("worse is alone.")


def test_each_place_has_its_own_patience():
    session = Session([Orphan(patience=2)])
    run(session, look("slow", "a"), look("slow", "a"), look("slow", "a"))
    assert session.findings[0].places == ("a",)
    run(session, look("slow", "a"))
    assert session.findings[0].places == ("a", "slow")


def test_each_optimizer_has_its_own_streaks():
    session = Session([Orphan(patience=2)])
    run(session, look("a", optimizer="Adam 0"), look(optimizer="Adam 1"))
    run(session, look("a", optimizer="Adam 0"), look(optimizer="Adam 1"))
    assert len(session.findings) == 1
    other = Session([Orphan(patience=2)])
    run(other, look("a", optimizer="Adam 0"), look("a", optimizer="Adam 1"))
    assert other.findings == []


def test_a_symptom_is_filed_under_a_cause_that_is_known():
    session = run(Session([Orphan(), Rising()]), look("a"), losses(2.0))
    cause, symptom = session.findings
    assert (cause.name, symptom.name, symptom.caused_by) == ("orphan", "rising", "orphan")


def test_a_symptom_is_filed_under_a_cause_that_comes_later():
    listening = Listening()
    session = Session([Orphan(), Rising()], [listening])
    run(session, losses(2.0))
    assert session.findings[0].caused_by == ""
    run(session, look("a"))
    assert [(f.name, f.caused_by) for f in session.findings] == [
        ("orphan", ""),
        ("rising", "orphan"),
    ]
    finding, new = listening.told[-1]
    assert (finding.name, finding.caused_by, new) == ("rising", "orphan", False)


def test_a_symptom_that_comes_back_keeps_its_cause():
    session = Session([Orphan(), Rising()])
    run(session, losses(2.0), look("a"), losses(0.5), losses(2.0))
    assert [f.caused_by for f in session.findings] == ["", "orphan"]


@pytest.mark.parametrize(
    ("filters", "places"),
    [
        ({}, ("body.a", "head.b")),
        ({"ignore": ["orphan:head.*"]}, ("body.a",)),
        ({"ignore": ["orphan"]}, ()),
        ({"ignore": ["loss"]}, ("body.a", "head.b")),
        ({"select": ["orphan:head.*"]}, ("head.b",)),
        ({"select": ["orphan"]}, ("body.a", "head.b")),
        ({"select": ["orphan:body.*", "orphan:head.*"]}, ("body.a", "head.b")),
        ({"select": ["orphan"], "ignore": ["orphan:*.b"]}, ("body.a",)),
        ({"select": ["rising:loss"]}, ("body.a", "head.b")),
    ],
)
def test_filters_by_place(filters, places):
    session = run(Session([Orphan()], **filters), look("body.a", "head.b"))
    assert sum((f.places for f in session.findings), ()) == places


def test_what_is_ignored_is_no_cause():
    session = Session([Orphan(), Rising()], ignore=["orphan:a"])
    [finding] = run(session, look("a"), losses(2.0)).findings
    assert (finding.name, finding.caused_by) == ("rising", "")


def test_a_check_that_raises_is_switched_off_once_and_others_go_on(caplog):
    session = Session([Raising(), Rising()])
    run(session, losses(2.0), losses(2.0))
    assert [f.name for f in session.findings] == ["rising"]
    assert session.contain.failures == {"check raising": "RuntimeError: a bug of ours"}
    [record] = caplog.records
    assert "check raising failed and is switched off" in record.getMessage()
    assert record.exc_info is not None


def test_a_sink_that_raises_is_switched_off_and_others_go_on():
    breaking, memory = Breaking(), Memory()
    session = Session([Orphan(), Rising()], [breaking, memory])
    run(session, look("a"), losses(2.0))
    session.close()
    assert breaking.calls == 1
    assert [f.name for f in memory.told] == ["orphan", "rising"]
    assert memory.status == "completed"
    assert session.contain.failures == {"sink Breaking": "OSError: disk full"}


def test_an_interrupt_passes():
    class Interrupting(Sink):
        def finding(self, finding, *, new):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Session([Orphan()], [Interrupting()]), look("a"))


def test_an_instance_that_is_used_again_starts_afresh():
    check = Counting()
    for _ in range(2):
        session = run(Session([check]), losses(0.0))
        assert session.findings == []
        run(session, losses(0.0))
        assert len(session.findings) == 1
    assert check.asked == 0


def test_asks_only_for_what_a_working_check_needs():
    session = Session([Raising()])
    assert session.wants(Losses)
    assert not session.wants(Updates)
    run(session, losses(0.0))
    assert not session.wants(Losses)
    assert Session([Orphan()]).wants(Gradients)
    assert not Session([]).wants(RunEnd)


def test_numbers_of_a_look_go_out_together():
    memory = Memory()
    session = Session([Orphan(patience=1)], [memory])
    session.start(RunInfo())
    run(session, gradients({"a.weight": {"norm": 3.0}, "b.weight": {"norm": 4.0}}), look("a"))
    session.end_look(5, 0)
    session.end_look(6, 0)
    [(step, numbers)] = memory.scalars
    assert step == 5
    assert numbers["findings/warning"] == 1.0
    assert {"gradient-norm", "gradient-norm/a", "gradient-norm/b"} <= set(numbers)


def test_closes_with_what_was_found():
    memory = Memory()
    session = run(Session([Orphan()], [memory]), look("a"))
    assert not session.closed
    session.close("KeyboardInterrupt")
    assert session.closed
    assert memory.status == "KeyboardInterrupt"


def test_a_run_that_ends_before_patience_does_tells_what_every_look_has_seen():
    session = run(Session([Orphan(patience=10)]), *[look("a") for _ in range(6)])
    assert session.findings == []
    assert [f.where for f in run(session, RunEnd()).findings] == ["a"]


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([look("a")] * 5, id="too few looks"),
        pytest.param([look(), *[look("a")] * 8], id="the first look had not seen it"),
        pytest.param([*[look("a")] * 8, look()], id="the last look has not seen it"),
    ],
)
def test_the_end_of_a_run_proves_nothing_where(observations):
    session = run(Session([Orphan(patience=10)]), *observations)
    assert run(session, RunEnd()).findings == []


def test_an_interrupted_run_proves_nothing():
    session = run(Session([Orphan(patience=10)]), *[look("a") for _ in range(6)])
    assert run(session, RunEnd(completed=False)).findings == []


def test_a_place_that_asks_for_more_patience_keeps_it():
    session = run(Session([Orphan(patience=2)]), *[look("slow")] * 3)
    assert run(session, RunEnd()).findings == []


class Everything(Sink):
    """Keeps what it is told, by method."""

    draws = True

    def __init__(self):
        self.records, self.looks, self.pictures, self.states = [], [], [], []

    def record(self, part):
        self.records.append(part)

    def look(self, look):
        self.looks.append(look)

    def picture(self, picture):
        self.pictures.append(picture)

    def state(self, state):
        self.states.append(state)


def test_sinks_are_told_what_was_looked_at():
    sink = Everything()
    session = Session([Orphan(), Rising()], [sink])
    session.observe(gradients({}))
    session.observe(gradients({}))
    session.close(step=2)
    (state,) = sink.states
    assert state.looked == {"orphan": 2, "rising": 0}
    assert state.observed == {"Gradients Adam": 2}
    assert state.step == 2


def test_where_the_run_stands_is_told_ever_more_rarely():
    sink = Everything()
    session = Session([Orphan()], [sink], experiments=lambda session: [sentinel])
    for step in range(20):
        session.observe(gradients({}))
        session.end_look(step, 0)
    assert [state.step for state in sink.states] == [0, 1, 3, 7, 15]
    session.close(step=20, metrics={"loss": 0.5})
    assert sink.states[-1].experiments == (sentinel,)
    assert sink.states[-1].metrics == {"loss": 0.5}


def test_a_look_holds_the_numbers_of_layers_and_the_losses_since_the_last():
    sink = Everything()
    session = Session([Orphan()], [sink])
    session.observe(gradients({"net.0.weight": {"norm": 3.0}, "net.0.bias": {"norm": 4.0}}))
    session.observe(losses(2.0, 1.5))
    session.end_look(2, 1)
    session.observe(losses(1.0))
    session.close(step=3, epoch=1)
    first, last = sink.looks
    assert (first.step, first.epoch) == (2, 1)
    assert first.layers == {"gradient-norm": {"net.0": 5.0}}
    assert [loss for _, loss in first.losses] == [2.0, 1.5]
    assert [loss for _, loss in last.losses] == [1.0]
    assert not last.scalars


def test_the_validation_loss_is_told_at_its_own_step():
    sink = Everything()
    session = Session([Orphan()], [sink])
    session.observe(Validation(step=7, epoch=1, loss=0.25))
    session.observe(Validation(step=8, epoch=1, loss=math.nan))
    (look,) = sink.looks
    assert (look.step, look.scalars) == (7, {"validation-loss": 0.25})


def test_pictures_go_to_sinks_that_show_them_and_are_wanted_only_then():
    sink, other = Everything(), Memory()
    picture = Histogram(kind="weights", place="a", step=0, low=0.0, high=1.0, counts=(1,))
    session = Session([], [other, sink], draws=True)
    assert session.draws
    session.picture(picture)
    assert sink.pictures == [picture]
    assert not Session([], [other], draws=True).draws
    assert not Session([], [sink]).draws


def test_more_of_the_record_goes_to_all_sinks():
    sink = Everything()
    Session([], [sink]).record({"git": {"commit": "abc"}})
    assert sink.records == [{"git": {"commit": "abc"}}]


def elsewhere(name, *places, step=3):
    return Finding(
        name=name,
        severity=Severity.WARNING,
        message="Seen.",
        where=places[0],
        places=places,
        step=step,
    )


def hearing(*found):
    """Return a session that hears these findings of the process of rank 1 at its first look."""
    waiting = [(1, finding) for finding in found]

    def others():
        told, waiting[:] = list(waiting), []
        return told

    return Session([Orphan(), Rising()], others=others)


def test_what_only_another_process_has_found_is_told_with_its_rank():
    session = hearing(elsewhere("orphan", "a"))
    session.end_look(4, 0)
    (finding,) = session.findings
    assert finding.message == "On rank 1: Seen."
    assert (finding.evidence["rank"], finding.step, finding.where) == ("1", 3, "a")


def test_what_both_have_found_is_told_once_and_as_ones_own():
    session = hearing(elsewhere("orphan", "a", "b", step=9))
    run(session, look("a", step=5))
    session.end_look(9, 0)
    (finding,) = session.findings
    assert (finding.message, finding.step) == ("a is alone. The same holds for b.", 5)
    assert set(finding.places) == {"a", "b"}
    assert "rank" not in finding.evidence


def test_what_another_process_has_found_first_is_the_cause():
    session = hearing(elsewhere("orphan", "a", step=1))
    run(session, losses(2.0, step=2))
    session.close()
    assert [(f.name, f.caused_by) for f in session.findings] == [
        ("orphan", ""),
        ("rising", "orphan"),
    ]


def test_findings_of_checks_that_do_not_run_here_are_not_told():
    session = hearing(elsewhere("of-another-version", "a"))
    session.end_look(1, 0)
    assert not session.findings
    assert not session.contain.failures
