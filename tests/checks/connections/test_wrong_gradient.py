import pytest

from lightning_debug.checks.connections.wrong_gradient import WrongGradient
from lightning_debug.finding import Severity
from lightning_debug.observation import GradientCheck
from tests.build_probes import gradient, gradient_check

BAD = {"error": 0.9, "numeric": 1.25, "analytic": 0.125}


def told(obs, **thresholds):
    return list(WrongGradient(**thresholds).on_gradient_check(obs))


def test_names_the_function_and_the_line():
    cube = gradient("Cube", place="net.1", line="model.py:41", **BAD)
    [finding] = told(gradient_check(cube, whole=gradient(**BAD)))
    assert finding.where == "net.1"
    assert finding.severity is Severity.ERROR
    assert finding.message == (
        "The backward of Cube (model.py:41) gives 0.125 for a derivative that is 1.25 by finite"
        " differences."
    )
    assert finding.evidence == {"numeric": 1.25, "analytic": 0.125, "error": 0.9}


def test_names_a_module():
    [finding] = told(gradient_check(gradient("Capped", place="net", **BAD)))
    assert finding.message.startswith("The gradient of what Capped computes gives 0.125")


def test_a_loss_that_takes_no_logits_explains_what_is_no_backward_written_by_hand():
    check = WrongGradient()
    list(check.on_gradient_check(gradient_check(gradient("CTCLoss", place="criterion", **BAD))))
    assert check.causes() == ("not-log-probabilities",)
    cube = gradient("Cube", place="net.1", line="model.py:41", **BAD)
    list(check.on_gradient_check(gradient_check(cube)))
    assert check.causes() == ()


def test_names_a_function_once_however_often_it_is_applied():
    twice = [gradient("Cube", place="net.1", **BAD), gradient("Cube", place="net.1", **BAD)]
    assert len(told(gradient_check(*twice))) == 1


def test_the_step_itself_where_nothing_else_is_wrong():
    [finding] = told(gradient_check(whole=gradient(**BAD)))
    assert finding.where == "training_step"
    assert "changes by 1.25, but its gradient says 0.125" in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(gradient_check(gradient("Cube")), id="right"),
        pytest.param(
            gradient_check(gradient("Sign", surrogate="flat", **BAD)), id="straight-through"
        ),
        pytest.param(
            gradient_check(whole=gradient(**BAD, surrogate="identity")), id="reversed gradients"
        ),
        pytest.param(gradient_check(gradient("Noisy", error=float("nan"))), id="does not settle"),
        pytest.param(gradient_check(gradient("Adjoint", error=5e-3)), id="approximate"),
        pytest.param(GradientCheck(skipped="the model cannot be copied"), id="not made"),
    ],
)
def test_silent(obs):
    assert told(obs) == []


def test_the_threshold_is_the_users():
    assert told(gradient_check(gradient("Adjoint", error=5e-3)), error=1e-3)
