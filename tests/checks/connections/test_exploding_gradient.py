import math

import pytest

from lightning_debug.checks.connections.exploding_gradient import ExplodingGradient
from lightning_debug.finding import Severity
from lightning_debug.observation import Backward, Glance, LossCall, LossCalls, RecurrentFlow
from tests.build_updates import gradients, layers, told


def over_time(*norms, loss=None, **changes):
    return [
        gradients(
            {"rnn.weight": {"norm": n}}, loss=float(i + 1) if loss is None else loss, **changes
        )
        for i, n in enumerate(norms)
    ]


def test_fires_over_depth():
    [finding] = told(ExplodingGradient(), layers([1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2]))
    assert finding.message == (
        "The gradient over the weight is 1.0e-02 at net.5.weight but 1.0e+03 at net.0.weight: it"
        " grows by 10^5.0 over 6 layers."
    )
    assert finding.where == "net.0.weight"
    assert finding.severity is Severity.ERROR


def test_fires_over_time():
    [finding] = told(ExplodingGradient(), *over_time(1.0, 2.0, 1.0, 2.0, 1.0, 5e4))
    assert finding.message == (
        "The gradient norm is 5.00e+04, 50000 times its median so far (1.00e+00), and the loss has"
        " gone from 3 to 6."
    )
    assert finding.where == "Adam"
    assert finding.evidence == {"norm": 5e4, "median": 1.0}


def test_fires_over_the_glances_between_two_looks():
    norms = [1.0, 2.0, 1.0, 2.0, 1.0, 5e4]
    seen = [
        Glance(step=i, optimizer="Adam", gradients={"rnn.weight": norm}, loss=float(i + 1))
        for i, norm in enumerate(norms)
    ]
    [finding] = told(ExplodingGradient(), *seen)
    assert (finding.step, finding.where) == (5, "Adam")
    assert finding.evidence == {"norm": 5e4, "median": 1.0}
    assert not told(ExplodingGradient(), *seen[:-1])


def test_fires_against_the_loss_of_a_constant_prediction():
    calls = LossCalls(calls=(LossCall(function="cross_entropy", references={"uniform": 2.3}),))
    exploding = gradients({"w": {"norm": 2e6, "weight_norm": 10.0}}, loss=7e5)
    check = ExplodingGradient()
    list(check.on_loss_calls(calls))
    [finding] = check.on_gradients(exploding)
    assert finding.message == (
        "The gradient norm is 2.0e+06 at a loss of 7e+05: changing the weights along it by a"
        " millionth of their size (10) changes the loss by about 2.0e+01."
    )


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param(over_time(*[1e6] * 8, loss=1e6), id="large but steady, like the loss"),
        pytest.param(over_time(*[1.0] * 6, 30.0), id="a spike that clipping handles"),
        pytest.param(over_time(*[1.0] * 6, 1e5, loss=1.0), id="the loss did not suffer"),
        pytest.param(over_time(1e-6, 1e5), id="too early to know what is usual"),
        pytest.param(over_time(*[1.0] * 6, 1e5, stepped=False), id="the scaler refused the step"),
        pytest.param(over_time(*[1.0] * 6, math.inf), id="infinite is another finding"),
        pytest.param([layers([1e-2, 1e-1, 1e-2, 1e-1, 1e-2])], id="even over depth"),
        pytest.param([layers([1e4, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2])], id="one layer only"),
    ],
)
def test_silent(observations):
    assert told(ExplodingGradient(), *observations) == []


def test_optimizers_have_their_own_history():
    critic = over_time(*[1e5] * 8)
    actor = over_time(*[1.0] * 8, optimizer="SGD")
    check = ExplodingGradient()
    for pair in zip(actor, critic, strict=True):
        for obs in pair:
            assert told(check, obs) == []


def back(*norms):
    return Backward(recurrent=(RecurrentFlow(place="rnn", norms=norms),))


def weights(norm, weight_norm=10.0):
    return gradients({"rnn.weight": {"norm": norm, "weight_norm": weight_norm}}, loss=1.0)


def test_fires_over_the_steps_of_a_sequence():
    [finding] = told(ExplodingGradient(), back(1e3, 50.0, 2.0, 0.05), weights(200.0))
    assert finding.where == "rnn over time"
    assert finding.message == (
        "The gradient grows 2.0e+04 times from the last time steps of rnn to the first; its norm"
        " over all weights is 2.0e+02."
    )


def test_says_so_where_it_has_exploded_against_the_loss():
    [finding] = told(ExplodingGradient(), back(1e6, 1e3, 2.0, 0.05), weights(1e5))
    assert finding.where == "Adam"
    assert finding.message.endswith("It grows 2.0e+07 times over the time steps of rnn.")


@pytest.mark.parametrize(
    ("norms", "norm"),
    [
        pytest.param((1.0, 1e-3, 1e-5, 1e-7), 0.5, id="discounted loss"),
        pytest.param((1e3, 2.0, 2.0, 0.05), 200.0, id="all of it at one step"),
        pytest.param((1e3, 0.0, 0.0, 0.0), 200.0, id="a loss on the first steps"),
        pytest.param((3.0, 2.0, 1.0, 0.5), 200.0, id="grows a little"),
        pytest.param((1e-9, 1e-6, 1e-3, 1.0), 200.0, id="vanishes"),
    ],
)
def test_silent_over_the_steps_of_a_sequence(norms, norm):
    assert told(ExplodingGradient(), back(*norms), weights(norm)) == []
