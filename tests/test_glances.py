"""A short interval: whole looks now and then, glances at all other steps."""

from collections import Counter
from functools import partial

import pytest

from lightning_debug import DataQuality, DebugSuite, GradientNorms, UpdateRatios
from lightning_debug.session import Session
from lightning_debug.sinks.memory import Memory
from tests.runs import Program, alarms, digits, fit
from tests.test_cost import count
from tests.test_no_trace import network

STEPS = 60
WHOLE = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 20, 25, 31, 38, 47, 58]


@pytest.fixture
def shown(monkeypatch):
    found = []
    original = Session.observe
    monkeypatch.setattr(Session, "observe", lambda s, o: (found.append(o), original(s, o)))
    return found


def train(suite):
    return fit(partial(Program, network()), digits(flat=False, n=640), epochs=3, suite=suite)


def test_each_step_has_its_numbers(shown):
    memory = Memory()
    suite = train(DebugSuite(every_n_steps=1, preflight=False, sinks=[memory]))
    assert alarms(suite) == []
    assert [step for step, _ in memory.scalars] == list(range(STEPS))
    for _, scalars in memory.scalars:
        assert "gradient-norm" in scalars
        assert any(name.startswith("learning-rate/") for name in scalars)
    steps = {
        kind: [o.step for o in shown if type(o).__name__ == kind]
        for kind in ("Activations", "Glance")
    }
    assert steps["Activations"] == WHOLE
    assert steps["Glance"] == sorted(set(range(STEPS)) - set(WHOLE))


def test_the_curves_go_on_from_whole_looks_to_glances():
    memory = Memory()
    train(DebugSuite(every_n_steps=1, preflight=False, sinks=[memory]))
    last, _ = WHOLE[-2:]
    whole, glance = dict(memory.scalars)[last], dict(memory.scalars)[last + 1]
    names = {name for name in whole if name.startswith(("gradient-norm", "update-ratio"))}
    assert names <= glance.keys()
    for name in names:
        assert glance[name] == pytest.approx(whole[name], rel=2.0)


@pytest.mark.parametrize(
    ("section", "expected"), [(GradientNorms, True), (UpdateRatios, True), (DataQuality, False)]
)
def test_only_who_asks_for_gradients_or_updates_glances(section, expected, shown):
    train(section(every_n_steps=1, preflight=False, sinks=[]))
    assert Counter(type(o).__name__ == "Glance" for o in shown)[True] == 41 * expected


def test_a_glance_runs_a_few_operators_and_reads_nothing():
    bare = count([])
    watched = count([DebugSuite(every_n_steps=1, preflight=False, sinks=[])])
    # The first batches of an epoch leave a fingerprint.
    glances = [step for step in range(STEPS) if step not in WHOLE and step % 20 > 3]
    assert {watched.reads[step] - bare.reads[step] for step in glances} == {0}
    [extra] = {watched.ops[step] - bare.ops[step] for step in glances}
    assert extra < 60  # of eight parameters


def test_a_glance_that_fails_is_said_once_and_training_goes_on(monkeypatch):
    from lightning_debug.taps.glances import GlanceTap

    monkeypatch.setattr(GlanceTap, "end", lambda *_: 1 / 0)
    suite = DebugSuite(every_n_steps=1, preflight=False, sinks=[])
    with pytest.raises(AssertionError, match="ZeroDivisionError"):  # `fit` wants no failure
        train(suite)
    assert list(suite.failures) == [GlanceTap.name]
