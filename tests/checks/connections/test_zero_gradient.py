import pytest

from lightning_debug.checks.connections.zero_gradient import ZeroGradient
from lightning_debug.finding import Severity
from lightning_debug.observation import Connections, GradientUse
from tests.build_updates import gradients, told, updates

STEP = updates({"net.0.weight": {}})
ZERO = {"largest": 0.0, "norm": 0.0, "rms": 0.0}


def test_fires():
    [finding] = told(ZeroGradient(), STEP, gradients({"head.weight": {}, "net.0.weight": ZERO}))
    assert finding.message == "The gradient of net.0.weight is exactly 0 in all elements."
    assert finding.where == "net.0.weight"
    assert finding.severity is Severity.ERROR
    assert (finding.step, finding.epoch) == (7, 1)


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"scale": {**ZERO, "dims": 1}}, id="a scale without a matrix beside it"),
        pytest.param(
            {"head.bias": {**ZERO, "dims": 1}, "head.weight": ZERO}, id="the matrix has none either"
        ),
        pytest.param(
            {"norm.weight": {**ZERO, "dims": 1}, "norm.bias": {"dims": 1}}, id="norm, no matrix"
        ),
    ],
)
def test_fires_for_vectors(parameters):
    assert told(ZeroGradient(), STEP, gradients(parameters))


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(
            gradients({"net.0.weight": ZERO}, optimizer="SGD"), id="no step has been made"
        ),
        pytest.param(gradients({"net.0.weight": {"largest": 1e-30}}), id="tiny"),
        pytest.param(gradients({"net.0.weight": {**ZERO, "present": False}}), id="no gradient"),
        pytest.param(gradients({"net.0.weight": ZERO}, muted=True), id="a term has weight 0"),
        pytest.param(gradients({"net.0.weight": ZERO}, loss=0.0), id="hinge loss is satisfied"),
        pytest.param(
            gradients({"net.0.weight": {**ZERO, "executed": False}}), id="module rests this step"
        ),
        pytest.param(
            gradients({"head.weight": {}, "head.bias": {**ZERO, "dims": 1}}),
            id="a bias that cancels out, as in a WGAN",
        ),
    ],
)
def test_silent(obs):
    assert told(ZeroGradient(), STEP, obs) == []


def test_silent_while_warm_up_keeps_the_learning_rate_at_zero():
    rest = updates({"lora.b": {"lr": 0.0}})
    assert told(ZeroGradient(), rest, gradients({"lora.b": {}, "lora.a": ZERO})) == []


def test_silent_while_the_loss_of_one_of_several_optimizers_is_off():
    steps = [updates({"g": {}}, optimizer="Adam 0"), updates({"d": {}}, optimizer="Adam 1")]
    on = gradients({"g": {}}, optimizer="Adam 0")
    off = gradients({"d": ZERO}, optimizer="Adam 1")
    assert told(ZeroGradient(), *steps, on, off) == []
    assert told(ZeroGradient(), *steps, off)


@pytest.mark.parametrize(
    ("first", "explained"),
    [
        pytest.param(ZERO, False, id="zero from the first step on"),
        pytest.param({}, True, id="came to a stop later"),
    ],
)
def test_updates_explain_only_what_they_may_have_done(first, explained):
    check = ZeroGradient()
    told(check, STEP, gradients({"head.weight": {}, "net.0.weight": first}))
    told(check, STEP, gradients({"head.weight": {}, "net.0.weight": ZERO}))
    assert ("update-too-large" in check.causes()) is explained
    assert ("probabilities-as-logits" in check.causes()) is explained
    assert "symmetric-init" in check.causes()


def test_silent_where_gradients_are_cleared_after_backward():
    cleared = Connections(uses=(GradientUse(optimizer="Adam", cleared=True),))
    assert told(ZeroGradient(), STEP, cleared, gradients({"net.0.weight": ZERO})) == []
    assert told(ZeroGradient(), STEP, cleared, gradients({"head.weight": {}, "net.0.weight": ZERO}))
