import math

import pytest

from lightning_debug.checks.loss.loss_scale_imbalance import LossScaleImbalance
from lightning_debug.observation import LossCall, LossCalls, LossTerm, LossTerms


def ask(*terms, value=2.3):
    """Return what the check says of terms, the first of which is the call at ``value``."""
    check = LossScaleImbalance()
    call = LossCall(function="cross_entropy", value=value, references={"uniform": 2.3}, classes=10)
    list(check.on_loss_calls(LossCalls(calls=(call,))))
    return list(check.on_loss_terms(LossTerms(terms=terms)))


def term(gradient, name="cross_entropy", **changes):
    return LossTerm(name=name, **{"gradient": gradient, "value": 1.0, "call": 0} | changes)


LOUD = term(50.0, "mse_loss", call=-1)


def test_fires():
    (finding,) = ask(term(0.05), LOUD)
    assert finding.message == (
        "The gradient of mse_loss in the shared layers is 1e+03 times that of cross_entropy, which"
        " has learned nothing: its loss is 2.3, chance is 2.3."
    )
    assert finding.where == "loss term cross_entropy"
    assert finding.severity == "warning"
    assert "Divide mse_loss by about 1000" in finding.fix


def test_a_term_that_is_small_on_purpose_is_info():
    (finding,) = ask(term(0.05, weight=0.01), LOUD)
    assert finding.severity == "info"


@pytest.mark.parametrize(
    ("terms", "value"),
    [
        pytest.param((term(1.0), LOUD), 2.3, id="fifty times"),
        pytest.param((term(0.05), LOUD), 1.0, id="the small term is learned"),
        pytest.param((term(0.05, call=-1), LOUD), 2.3, id="no chance level"),
        pytest.param((term(0.0), LOUD), 2.3, id="no gradient at all"),
        pytest.param((term(math.nan), LOUD), 2.3, id="nothing shared"),
        pytest.param((term(0.05),), 2.3, id="one term"),
        pytest.param((term(0.05), term(50.0, "penalty", penalty=True)), 2.3, id="penalty"),
        pytest.param((term(0.05), term(50.0, "mse_loss", total=1)), 2.3, id="two losses"),
    ],
)
def test_silent(terms, value):
    assert not ask(*terms, value=value)
