import pytest

from lightning_debug.checks.connections.no_gradient import NoGradient
from lightning_debug.finding import Severity
from lightning_debug.observation import Connections, GradientUse, RunEnd
from tests.build_updates import gradients, told, updates

NONE = {"present": False, "largest": 0.0, "norm": 0.0}


def test_fires_behind_a_cut():
    [finding] = told(NoGradient(), gradients({"head.weight": {}, "net.0.weight": NONE}))
    assert finding.message == (
        "net.0.weight is used in the forward pass but backward has never reached it."
    )
    assert finding.where == "net.0.weight"
    assert finding.severity is Severity.ERROR
    assert ".detach()" in finding.fix


def test_says_where_the_graph_ends():
    cut = {**NONE, "cut": "item", "cut_line": "model.py:41", "cut_place": "net"}
    [finding] = told(NoGradient(), gradients({"head.weight": {}, "net.0.weight": cut}))
    assert finding.message == (
        "net.0.weight is used in the forward pass but backward has never reached it: its output is"
        " cut off by .item() at model.py:41 in net."
    )


def test_fires_for_a_module_that_never_runs():
    unused = {**NONE, "executed": False}
    [finding] = told(NoGradient(), gradients({"head.weight": {}, "spare.weight": unused}))
    assert (
        finding.message == "spare.weight is in the optimizer, but its module has never been used."
    )
    assert finding.fix.startswith("Use it in forward, or delete it")
    assert finding.patience == NoGradient().idle_patience


@pytest.mark.parametrize(
    ("looks", "completed", "routed", "told_of"),
    [
        pytest.param(6, True, False, 1, id="the run is over"),
        pytest.param(5, True, False, 0, id="too few looks"),
        pytest.param(6, False, False, 0, id="interrupted: it may have come later"),
        pytest.param(6, True, True, 0, id="an expert that was never chosen"),
    ],
)
def test_the_end_of_the_run_proves_that_a_module_never_ran(looks, completed, routed, told_of):
    check = NoGradient()
    unused = gradients({"spare.weight": {**NONE, "executed": False, "routed": routed}})
    for _ in range(looks):
        list(check.on_gradients(unused))
    found = list(check.on_run_end(RunEnd(completed=completed)))
    assert len(found) == told_of
    assert all(finding.patience == 1 for finding in found)


def test_silent_on_an_average_of_the_weights():
    check = NoGradient()
    unused = gradients({"spare.weight": {**NONE, "executed": False}})
    for _ in range(check.looks):
        list(check.on_gradients(unused))
        list(check.on_updates(updates({"spare.weight": {"moved": True}})))
    assert not list(check.on_gradients(unused))
    assert not list(check.on_run_end(RunEnd(completed=True)))


def test_waits_longer_where_a_module_did_not_run():
    expert = {**NONE, "executed": False, "routed": True}
    [finding] = told(NoGradient(), gradients({"router.weight": {}, "experts.3.weight": expert}))
    assert finding.patience == NoGradient().idle_patience


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([gradients({"net.0.weight": {}})], id="has one"),
        pytest.param(
            [gradients({"head.weight": {}, "g.weight": {**NONE, "ever": True}})], id="had"
        ),
        pytest.param(
            [
                gradients({"d.weight": {}, "g.weight": {}}),
                gradients({"d.weight": {}, "g.weight": NONE}),
            ],
            id="toggled part of a GAN",
        ),
    ],
)
def test_silent(observations):
    assert told(NoGradient(), *observations) == []


def test_silent_where_backward_has_not_run():
    skipped = Connections(backwards=0)
    assert told(NoGradient(), skipped, gradients({"net.0.weight": NONE})) == []


def test_silent_where_gradients_are_cleared_after_backward():
    cleared = Connections(uses=(GradientUse(optimizer="Adam", cleared=True),))
    assert told(NoGradient(), cleared, gradients({"net.0.weight": NONE})) == []
    assert told(NoGradient(), cleared, gradients({"head.weight": {}, "net.0.weight": NONE}))
