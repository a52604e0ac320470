import pytest

from lightning_debug.checks.connections.non_finite_gradient import NonFiniteGradient
from lightning_debug.finding import Severity
from tests.build_updates import backward, told

BORN = (("head", True, True), ("body.sqrt", True, False), ("body.0", False, False))


def test_names_the_module_that_made_it():
    [finding] = told(NonFiniteGradient(), backward(*BORN, step=3))
    assert finding.message == (
        "1 parameters have a gradient that is not finite. The gradient that enters body.sqrt is"
        " finite, the one it returns is not."
    )
    assert (finding.where, finding.severity, finding.step) == ("body.sqrt", Severity.ERROR, 3)


def test_names_the_gap_between_two_modules():
    [finding] = told(NonFiniteGradient(), backward(("head", False, False)))
    assert finding.where == "head"
    assert finding.message.endswith("It is born behind the output of head, before the next module.")


def test_names_the_last_parameter_where_no_module_tells():
    [finding] = told(NonFiniteGradient(), backward(broken=("a", "b")))
    assert finding.where == "b"
    assert finding.message == (
        "2 parameters have a gradient that is not finite. The last in model order is b."
    )


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(backward(*BORN, broken=()), id="the parameters are fine"),
        pytest.param(backward(*BORN, loss_finite=False), id="the loss is the finding"),
        pytest.param(backward(*BORN, activations_finite=False), id="forward made it"),
        pytest.param(backward(*BORN, skipped=True), id="the scaler refused the step"),
    ],
)
def test_silent(obs):
    assert told(NonFiniteGradient(), obs) == []
