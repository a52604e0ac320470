import pytest

from lightning_debug.checks.connections.non_finite_activation import NonFiniteActivation
from lightning_debug.finding import Severity
from tests.build_observations import activations, module


def broken(place="net.1", **changes):
    return module(place, kind="Log", finite=False, input_rms=0.5, **changes)


def test_fires():
    obs = activations(module(), broken(), broken("net.2", input_finite=False), harmful=True)
    (finding,) = NonFiniteActivation().on_activations(obs)
    assert finding.message == (
        "The output of net.1 (Log) is the first that is not finite. Its input is finite, with an"
        " rms of 0.5."
    )
    assert finding.where == "net.1"
    assert finding.severity == Severity.ERROR


@pytest.mark.parametrize(
    ("changes", "look", "reason"),
    [
        pytest.param({}, {"batch_finite": False}, "The batch already holds", id="batch"),
        pytest.param({"parameters_finite": False}, {}, "an earlier update", id="weights"),
        pytest.param({"input_finite": False}, {}, "outside modules", id="functions before it"),
    ],
)
def test_says_where_it_comes_from(changes, look, reason):
    obs = activations(broken(**changes), harmful=True, **look)
    (finding,) = NonFiniteActivation().on_activations(obs)
    assert reason in finding.message


def test_keeps_the_first_place():
    check = NonFiniteActivation()
    list(check.on_activations(activations(module(), broken(), harmful=True)))
    (later,) = check.on_activations(activations(broken("net.0"), harmful=True))
    assert later.where == "net.1"


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(activations(module()), id="finite"),
        pytest.param(activations(module(), broken()), id="mask of minus infinity"),
        pytest.param(activations(module(), harmful=True), id="made in the loss"),
    ],
)
def test_silent(obs):
    assert not list(NonFiniteActivation().on_activations(obs))
