import pytest

from lightning_debug.checks.loss.probabilities_as_logits import ProbabilitiesAsLogits
from lightning_debug.finding import Severity
from lightning_debug.observation import Predictions
from tests.build_observations import loss_calls


def look(kind="logits", *, shape=(32, 10), **changes):
    prediction = Predictions(shape=shape, low=0.0, high=0.9, distributions=0.0, **changes)
    return loss_calls(kind=kind, prediction=prediction)


def findings(obs):
    return list(ProbabilitiesAsLogits().on_loss_calls(obs))


def test_says_the_floor():
    prediction = Predictions(
        shape=(32, 10), low=0.01, high=0.93, maker="softmax", width=10, distributions=1.0
    )
    (finding,) = findings(loss_calls(kind="logits", prediction=prediction, value=1.61))
    assert finding.severity == Severity.ERROR
    assert finding.where == "training_step"
    assert finding.message == (
        "cross_entropy expects logits and applies its own softmax, but it gets probabilities:"
        " values of 0.01 to 0.93 that softmax gives, and each row sums to 1. With 10 classes the"
        " loss cannot fall below 1.46, however good the model is; it is 1.61."
    )


def test_fires_on_handwritten_softmax():
    prediction = Predictions(shape=(32, 10), low=0.0, high=0.9, distributions=1.0)
    assert findings(loss_calls(kind="logits", prediction=prediction))


def test_fires_on_sigmoids():
    assert findings(look(maker="sigmoid"))
    (finding,) = findings(look("binary-logits", shape=(32,), maker="sigmoid"))
    assert "A target of 0 then costs at least 0.693" in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        look(),
        look(maker="relu"),
        look(maker="tanh"),
        look(maker="log_softmax", width=10),
        look("binary-logits", shape=(32, 1)),
        look("binary-logits", shape=(32, 1), maker="softmax", width=1),
        look(shape=(32, 1), maker="softmax", width=1),
        look("probabilities", maker="sigmoid"),
        look("regression", maker="softmax", width=10),
        look("log-probabilities", maker="softmax", width=10),
        look("other", maker="sigmoid"),
    ],
)
def test_silent(obs):
    assert findings(obs) == []
