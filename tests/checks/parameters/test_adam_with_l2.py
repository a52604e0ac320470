import pytest

from lightning_debug.checks.parameters.adam_with_l2 import AdamWithL2
from lightning_debug.observation import LossCall, LossCalls
from tests.build_observations import gradients
from tests.build_precision import plan
from tests.build_updates import updates


def stepped(*, value=2.3, norms=(1.0, 1.0), **changes):
    """Return what is found when two weight matrices of norm 8 are decayed."""
    check = AdamWithL2()
    call = LossCall(function="cross_entropy", value=value, references={"uniform": 2.3}, classes=10)
    list(check.on_loss_calls(LossCalls(calls=(call,))))
    one, two = ({"norm": norm, "weight_norm": 8.0} for norm in norms)
    list(check.on_gradients(gradients(a__weight=one, b__weight=two)))
    fields = {"weight_decay": 0.5, "weight_rms": 0.1, "fan_in": 64, "decay": "adaptive"} | changes
    return list(check.on_updates(updates({"a.weight": fields, "b.weight": fields})))


def test_decay_of_adam_is_worth_knowing():
    (finding,) = AdamWithL2().on_plan(plan(weight_decay=0.01, decay="adaptive"))
    assert finding.message == (
        "weight_decay=0.01 of Adam is added to the gradient, which the step then divides by its"
        " size."
    )
    assert finding.severity == "info"


def test_decay_that_leads_is_an_alarm():
    (finding,) = stepped()
    assert finding.message == (
        "weight_decay=0.5 of Adam goes through the adaptive step: in 2 of 2 weight matrices it is"
        " at least 4 times the data gradient, and the loss is at 100% of chance."
    )
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(plan("AdamW", weight_decay=0.01, decay="decoupled"), id="AdamW"),
        pytest.param(plan("SGD", weight_decay=0.01, decay="gradient"), id="SGD"),
        pytest.param(plan("Adam"), id="no decay"),
    ],
)
def test_silent_about_the_plan(obs):
    assert not list(AdamWithL2().on_plan(obs))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"value": 1.5}, id="it learns"),
        pytest.param({"norms": (10.0, 1.0)}, id="one of two matrices"),
        pytest.param({"decay": "decoupled"}, id="decoupled"),
        pytest.param({"decay": "gradient"}, id="SGD"),
        pytest.param({"lr": 0.0}, id="warm-up from 0"),
        pytest.param({"weight_decay": 1e-4}, id="little decay"),
        pytest.param({"weight_decay": 50.0}, id="so much that decoupling would not help"),
    ],
)
def test_no_alarm(changes):
    assert not stepped(**changes)
