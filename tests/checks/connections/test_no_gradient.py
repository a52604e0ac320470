import pytest

from lightning_debug.checks.connections.no_gradient import NoGradient
from lightning_debug.finding import Severity
from tests.build_updates import gradients, told

NONE = {"present": False, "largest": 0.0, "norm": 0.0}


def test_fires_behind_a_cut():
    [finding] = told(NoGradient(), gradients({"head.weight": {}, "net.0.weight": NONE}))
    assert finding.message == (
        "net.0.weight is used in the forward pass but backward has never reached it."
    )
    assert finding.where == "net.0.weight"
    assert finding.severity is Severity.ERROR
    assert ".detach()" in finding.fix


def test_fires_for_a_module_that_never_runs():
    unused = {**NONE, "executed": False}
    [finding] = told(NoGradient(), gradients({"head.weight": {}, "spare.weight": unused}))
    assert (
        finding.message == "spare.weight is in the optimizer, but its module has never been used."
    )
    assert finding.fix.startswith("Use it in forward, or delete it")


def test_waits_longer_where_a_sibling_ran():
    expert = {**NONE, "executed": False, "routed": True}
    [finding] = told(NoGradient(), gradients({"router.weight": {}, "experts.3.weight": expert}))
    assert finding.patience == NoGradient().routed_patience


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
