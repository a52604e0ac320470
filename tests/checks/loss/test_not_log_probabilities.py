import pytest

from lightning_debug.checks.loss.not_log_probabilities import NotLogProbabilities
from lightning_debug.finding import Severity
from lightning_debug.observation import Predictions
from tests.build_observations import loss_calls


def findings(function="nll_loss", kind="log-probabilities", value=-0.4, **changes):
    fields = {"shape": (32, 10), "low": -5.0, "high": -0.1, "distributions": 0.0}
    fields |= {"mixed": 0.0, "normaliser": 0.0}
    prediction = Predictions(**fields | changes)
    obs = loss_calls(function=function, kind=kind, prediction=prediction, value=value)
    return list(NotLogProbabilities().on_loss_calls(obs))


@pytest.mark.parametrize("function", ["nll_loss", "kl_div"])
def test_fires_on_probabilities(function):
    (finding,) = findings(function, low=0.01, high=0.8, distributions=1.0, normaliser=2.4)
    assert finding.severity == Severity.ERROR
    assert finding.message == (
        f"{function} expects log-probabilities, but gets probabilities: values of 0.01 to 0.8,"
        " each row sums to 1. The loss is -0.4."
    )


@pytest.mark.parametrize("function", ["nll_loss", "kl_div"])
def test_fires_on_raw_scores(function):
    (finding,) = findings(function, low=-2.0, high=3.0, mixed=0.98, normaliser=2.8)
    assert "raw scores" in finding.message


def test_fires_on_sigmoids():
    (finding,) = findings(low=0.01, high=0.9, normaliser=2.8)
    assert "none of them negative" in finding.message


def test_fires_on_ctc_of_raw_scores():
    shape = (24, 32, 6)
    (finding,) = findings(
        "ctc_loss", "other", shape=shape, low=-2.0, high=3.0, mixed=0.98, normaliser=2.8
    )
    assert "ctc_loss expects log-probabilities, but gets raw scores" in finding.message
    assert "dim=-1" in finding.fix


def test_fires_on_ctc_of_small_scores_that_give_a_negative_loss():
    (finding,) = findings(
        "ctc_loss", "other", shape=(24, 32, 6), low=-0.4, high=0.05, mixed=0.1, normaliser=1.7
    )
    assert "the targets have a probability above 1" in finding.message


def test_fires_on_ctc_over_another_axis():
    (finding,) = findings(
        "ctc_loss", "other", shape=(24, 32, 6), maker="log_softmax", normaliser=1.2
    )
    assert "over axis -1" in finding.message


def test_fires_on_another_axis():
    (finding,) = findings(maker="log_softmax", normaliser=1.2)
    assert "another axis than that of the classes" in finding.message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"maker": "log_softmax"},
        {"normaliser": 1.8},  # focal: (1 - p) ** 2 * log p
        {"normaliser": 1.8, "low": -1.0, "high": 0.5, "mixed": 0.0},  # policy gradient
        {"low": -9.0, "high": 1e-5, "mixed": 0.9},  # log(p + 1e-5)
        {"function": "kl_div", "normaliser": 3.0},  # another axis, or Bernoulli pairs
        {"function": "kl_div", "maker": "log_softmax", "normaliser": 3.0},
        {"maker": "log_softmax", "normaliser": 1.0, "whole": False},  # some of the classes
        {"kind": "logits", "low": -2.0, "high": 3.0, "mixed": 1.0, "normaliser": 3.0},
        {"low": 0.0, "high": 0.0, "shape": (32, 1)},
        {"function": "ctc_loss", "kind": "other", "shape": (24, 32, 6), "maker": "log_softmax"},
        # Steps behind the end are set to 0.
        {
            "function": "ctc_loss",
            "kind": "other",
            "shape": (24, 32, 6),
            "normaliser": 0.9,
            "value": 3.0,
        },
    ],
)
def test_silent(changes):
    assert findings(**changes) == []
