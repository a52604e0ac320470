import dataclasses
from collections import Counter

import pytest

from lightning_debug.experiments.probes import TITLES
from lightning_debug.finding import Severity
from lightning_debug.registry import all_checks
from lightning_debug.report.checklist import NEEDS, OWN, SHOWS, answers
from lightning_debug.report.points import CHECKLIST
from tests.build import finding
from tests.report.build import experiment, network, record, stored

POINTS = [point for points in CHECKLIST.values() for point in points]
QUESTIONS = [question for point in POINTS for question in point.questions]


def answer(name, run):
    """Return the answer to the point that asks for a finding."""
    return next(
        answer
        for section, points in CHECKLIST.items()
        for point, answer in zip(points, answers(run)[section], strict=True)
        if name in [question.finding for question in point.questions]
    )


def looked(**changes):
    """Return a run in which some checks were shown another number of observations."""
    counts = {name.replace("_", "-"): number for name, number in changes.items()}
    return record(looked=dict.fromkeys(all_checks(), 20) | counts)


def test_every_finding_belongs_to_one_point():
    assert Counter(q.finding for q in QUESTIONS) == Counter(list(all_checks()))


def test_points_name_what_exists():
    assert {q.experiment for q in QUESTIONS} - {""} <= set(TITLES.values())
    assert {q.needs for q in QUESTIONS} - {""} == set(NEEDS)
    assert {point.shows for point in POINTS} - {""} == set(SHOWS)
    assert all(bool(point.questions) != bool(point.shows) for point in POINTS)


def test_sections_of_the_checklist():
    assert list(CHECKLIST) == [
        "Start simple",
        "Confirm the loss",
        "Check intermediate outputs and connections",
        "Diagnose parameters",
        "The data",
        "Track the work",
    ]


@pytest.mark.parametrize("name", all_checks())
def test_a_finding_is_found(name):
    told = answer(name, stored(findings=[finding(name=name)]))
    assert told.state == "found"
    assert told.findings == (name,)


def test_a_symptom_is_found_under_its_cause():
    told = answer("dead-relu", stored(findings=[finding(caused_by="update-too-large")]))
    assert told.reason == "explained by update-too-large"


def test_passed_after_a_look():
    told = answer("initial-loss", stored(record=looked(initial_loss=7)))
    assert (told.state, told.reason) == ("passed", "looked at 7 times")


def test_passed_with_a_remark():
    told = answer(
        "no-scheduler", stored(findings=[finding(name="no-scheduler", severity=Severity.INFO)])
    )
    assert told.state == "passed"
    assert "worth knowing: 91 % of the units are zero" in told.reason


def test_passed_says_what_was_left_out():
    run = stored(record=looked(target_broadcast=0, loss_task_mismatch=3))
    told = answer("target-broadcast", run)
    assert told.state == "passed"
    assert told.reason == "looked at 3 times; target-broadcast: nothing came up to look at"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"looked": {"initial-loss": 0}}, "nothing came up to look at", id="no look"),
        pytest.param(
            {"looked": {"dead-relu": 3}},
            "switched off by select, ignore, or the sections in use",
            id="switched off",
        ),
        pytest.param(
            {"failures": {"check initial-loss": "ZeroDivisionError"}},
            "the check failed: ZeroDivisionError",
            id="failed",
        ),
        pytest.param({"looked": {}}, "the run left no word of what was looked at", id="killed"),
        pytest.param({"looked": "x"}, "the run left no word of what was looked at", id="damaged"),
        pytest.param(
            {"looked": {"initial-loss": "many"}}, "nothing came up to look at", id="no number"
        ),
    ],
)
def test_not_looked_at(changes, reason):
    told = answer("initial-loss", stored(record=record(**changes)))
    assert (told.state, told.reason) == ("not looked at", reason)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        pytest.param(
            "batch-norm-small-batch",
            {"network": network("Linear", "LayerNorm")},
            "no batch norm layer in the network",
            id="batch norm",
        ),
        pytest.param(
            "dropout-misplaced",
            {"network": network("Linear")},
            "no dropout layer in the network",
            id="dropout",
        ),
        pytest.param(
            "overfitting",
            {"record": record(observed={"Gradients": 20})},
            "no validation in the run",
            id="validation",
        ),
        pytest.param(
            "precision-underflow", {}, "the run computes in full precision", id="precision"
        ),
        pytest.param("batch-norm-not-synced", {}, "the run is one process", id="one process"),
    ],
)
def test_not_applicable(name, changes, reason):
    told = answer(name, stored(**changes))
    assert told.state == "not applicable"
    assert reason in told.reason


def test_dropout_that_was_never_evaluated():
    run = stored(network=network("Dropout"), record=record(observed={"Modes train": 3}))
    told = answer("dropout-active-in-eval", run)
    assert told.state == "passed"
    assert "dropout-active-in-eval: no dropout was evaluated in the run" in told.reason


def test_validation_is_known_by_any_of_its_observations():
    run = stored(record=record(observed={"Modes train": 3, "Modes validation": 1}))
    assert answer("overfitting", run).state == "passed"


def test_no_relu_where_looks_saw_none():
    bare = [
        dataclasses.replace(look, layers={"gradient-norm": {"a": 1.0}}) for look in stored().stats
    ]
    assert answer("dead-relu", stored(stats=bare)).state == "not applicable"
    assert answer("dead-relu", stored()).state == "passed"


def test_what_is_there_applies():
    assert (
        answer("batch-norm-small-batch", stored(network=network("BatchNorm1d"))).state == "passed"
    )
    mixed = record(record={"trainer": {"precision": "bf16-true", "devices": 1}})
    assert answer("precision-underflow", stored(record=mixed)).state == "passed"


@pytest.mark.parametrize(
    "drawn",
    [
        pytest.param(None, id="not drawn"),
        pytest.param(dataclasses.replace(network("Linear"), more=3), id="drawn in part"),
    ],
)
def test_absence_is_not_concluded_from_half_a_drawing(drawn):
    assert answer("batch-norm-small-batch", stored(network=drawn)).state == "passed"


def test_the_words_of_an_experiment():
    told = answer("cannot-overfit-batch", stored())
    assert told.state == "passed"
    assert told.reason == "experiment “one or two samples by heart”, 2 samples in 5 steps"


def test_an_experiment_that_did_not_apply():
    run = stored(experiments=[experiment(outcome="not applicable", detail="a GAN has no floor")])
    told = answer("cannot-overfit-batch", run)
    assert told.state == "not applicable"
    assert "a GAN has no floor" in told.reason


def test_an_experiment_that_was_not_made():
    told = answer("cannot-overfit-batch", stored(experiments=[]))
    assert told.state == "not looked at"
    assert told.reason == "experiment “one or two samples by heart” was not made"


def test_checks_of_the_user():
    run = stored(record=looked(my_check=4), findings=[finding(name="their-check")])
    own = {each.title: each.state for each in answers(run)[OWN]}
    assert own == {"my-check": "passed", "their-check": "found"}
    assert OWN not in answers(stored())


def test_pictures_and_record():
    shown = {a.title: a for points in answers(stored()).values() for a in points if not a.findings}
    assert shown["The structure of the network, drawn"].reason == "boxes: 4"
    assert shown["Filters of the first convolution, drawn"].state == "passed"
    bare = answers(
        stored(network=None, pictures=[], stats=[], record=record(record={}, metrics={}))
    )
    states = {a.title: a.state for points in bare.values() for a in points}
    for point in POINTS:
        if point.shows:
            assert states[point.title] == "not looked at"
