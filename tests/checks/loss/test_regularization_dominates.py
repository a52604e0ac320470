import pytest

from lightning_debug.checks.loss.regularization_dominates import RegularizationDominates
from lightning_debug.observation import LossCall, LossCalls, LossTerm, LossTerms, RateArm
from tests.build_observations import gradients
from tests.build_rates import trial
from tests.build_updates import losses, told, updates


def check_at(value, chance=2.3):
    """Return a check that has seen a loss; None for a loss without a chance level."""
    check = RegularizationDominates()
    references = {} if chance is None else {"uniform": chance}
    call = LossCall(function="cross_entropy", value=value, references=references, classes=10)
    list(check.on_loss_calls(LossCalls(calls=(call,))))
    return check


def penalised(check, penalty, data):
    terms = (
        LossTerm(name="cross_entropy", gradient=data, value=2.3),
        LossTerm(name="penalty on weights", gradient=penalty, penalty=True, value=20.0),
    )
    return list(check.on_loss_terms(LossTerms(terms=terms)))


def decayed(check, *, norm=1.0, **update):
    list(check.on_gradients(gradients(net__weight={"norm": norm, "weight_norm": 8.0})))
    fields = {"weight_rms": 0.1, "update_rms": 1e-3, "lr": 1e-3, "fan_in": 64}
    fields |= {"decay": "gradient"}
    return list(check.on_updates(updates({"net.weight": fields | update})))


def test_penalty():
    (finding,) = penalised(check_at(2.3), penalty=4.0, data=0.5)
    assert finding.message == (
        "The penalty on the weights (20 of the loss) sends a gradient of 4 into them, the data one"
        " of 0.5. The cross_entropy is 2.3; chance is 2.3."
    )
    assert finding.where == "penalty on weights"


def squeezed(check, gradient, data=0.1, **changes):
    terms = (
        LossTerm(name="cross_entropy", gradient=data, value=2.3, call=0),
        LossTerm(
            **{"name": "mean", "line": "train.py:9", "value": 9.0, "activity": True}
            | {"gradient": gradient}
            | changes
        ),
    )
    return list(check.on_loss_terms(LossTerms(terms=terms)))


def test_penalty_on_activations():
    (finding,) = squeezed(check_at(2.3), 3.0)
    assert finding.message == (
        "The penalty on activations (mean at train.py:9, 9 of the loss) sends a gradient of 3 into"
        " the layers that it shares with the data term, which sends 0.1. The cross_entropy is 2.3;"
        " chance is 2.3."
    )


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        pytest.param(check_at(1.9), {}, id="it learns"),
        pytest.param(check_at(2.3, None), {}, id="chance unknown"),
        pytest.param(check_at(2.3), {"gradient": 0.2}, id="twice the data"),
        pytest.param(check_at(2.3), {"activity": False}, id="some other term"),
        pytest.param(check_at(2.3), {"data": 0.0}, id="nothing shared"),
    ],
)
def test_silent_about_activations(check, changes):
    assert not squeezed(check, **{"gradient": 3.0} | changes)


def test_a_penalty_that_looks_like_a_loss_says_nothing_about_the_data():
    check = RegularizationDominates()
    data = LossCall(function="cross_entropy", value=2.3, references={"uniform": 2.3}, classes=10)
    own = LossCall(function="a mean square written by hand", value=1.0, references={"mean": 10.0})
    list(check.on_loss_calls(LossCalls(calls=(data, own))))
    terms = (
        LossTerm(name="cross_entropy", gradient=0.5, value=2.3, call=0),
        LossTerm(name="penalty on weights", gradient=4.0, penalty=True, value=20.0, call=1),
    )
    assert list(check.on_loss_terms(LossTerms(terms=terms)))


@pytest.mark.parametrize(
    ("last", "size", "fires"),
    [
        pytest.param(2.0, 4.0, True, id="weights shrink, the loss stays"),
        pytest.param(1.0, 4.0, False, id="the loss falls"),
        pytest.param(2.0, 8.0, False, id="weights stay: it had converged before"),
    ],
)
def test_where_chance_is_unknown_the_whole_run_tells(last, size, fires):
    check = check_at(2.3, None)
    for norm in (8.0, size):
        list(check.on_gradients(gradients(net__weight={"weight_norm": norm})))
    assert not penalised(check, 1.0, 1.0)
    list(check.on_losses(losses(2.0, *[last] * 5)))
    assert bool(penalised(check, 5.0, 1.0)) is fires


def test_decay_that_is_added_to_the_gradient():
    (finding,) = decayed(check_at(2.3), weight_decay=0.5)
    assert finding.message == (
        "weight_decay=0.5 of Adam moves the weights 4 times as much as the data do. The"
        " cross_entropy is 2.3; chance is 2.3."
    )


def test_decay_that_is_taken_off_the_weights():
    (finding,) = decayed(check_at(2.3), weight_decay=9.0, decay="decoupled")
    assert "weight_decay=9 of Adam" in finding.message


@pytest.mark.parametrize(
    ("value", "chance", "penalty", "fires"),
    [
        pytest.param(2.3, 2.3, 1.1, True, id="at chance, a little more"),
        pytest.param(2.3, 2.3, 0.9, False, id="at chance, less"),
        pytest.param(1.6, 2.3, 2.0, False, id="below chance, twice"),
        pytest.param(1.6, 2.3, 4.0, True, id="below chance, four times"),
        pytest.param(0.1, 2.3, 40.0, False, id="converged"),
        pytest.param(2.3, None, 5.0, False, id="chance unknown, five times"),
        pytest.param(2.3, None, 20.0, True, id="chance unknown, twenty times"),
    ],
)
def test_how_much_is_too_much(value, chance, penalty, fires):
    assert bool(penalised(check_at(value, chance), penalty, 1.0)) is fires


def test_silent_where_the_data_have_led_once_and_chance_is_unknown():
    check = check_at(2.3, None)
    assert not penalised(check, 1.0, 1.0)
    assert not penalised(check, 20.0, 1.0)


@pytest.mark.parametrize(
    "update",
    [
        pytest.param({"weight_decay": 0.01}, id="little decay"),
        pytest.param({"weight_decay": 0.0, "decay": ""}, id="none"),
        pytest.param({"weight_decay": 0.5, "lr": 0.0}, id="warm-up from 0"),
        pytest.param({"weight_decay": 0.5, "fan_in": 0}, id="biases and norms"),
        pytest.param({"weight_decay": 0.01, "decay": "decoupled"}, id="AdamW as usual"),
        pytest.param(
            {"weight_decay": 0.01, "decay": "decoupled", "lr": 1e-40, "update_rms": 0.0},
            id="a step that rounds to nothing",
        ),
    ],
)
def test_silent(update):
    assert not decayed(check_at(2.3), **update)


def undecayed(end, own=2.29):
    return trial({1.0: own}, undecayed=RateArm(factor=1.0, end=end))


def test_a_copy_without_weight_decay_learns():
    [finding] = told(RegularizationDominates(), undecayed(0.5))
    assert (finding.where, finding.patience) == ("SGD", 1)
    assert finding.message == (
        "In 20 steps of a copy from the initial weights the loss goes from 2.3 to 2.29; with"
        " weight_decay=0 it goes to 0.5."
    )


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(trial({1.0: 2.29}), id="there is no weight decay"),
        pytest.param(undecayed(2.2), id="it does not learn without, either"),
        pytest.param(undecayed(1.0, own=1.2), id="it learns with it, too"),
        pytest.param(
            trial({1.0: 0.0}, start=0.0, undecayed=RateArm(factor=1.0, end=0.0)),
            id="there is nothing to learn",
        ),
        pytest.param(trial({}, skipped="there are several optimizers"), id="no trial"),
    ],
)
def test_silent_after_a_trial(obs):
    assert told(RegularizationDominates(), obs) == []
