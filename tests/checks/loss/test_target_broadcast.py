import pytest

from lightning_debug.checks.loss.target_broadcast import TargetBroadcast
from lightning_debug.finding import Severity
from lightning_debug.observation import Predictions, Targets
from tests.build_observations import loss_calls


def findings(prediction, target, function="mse_loss", kind="regression"):
    obs = loss_calls(
        function=function,
        kind=kind,
        prediction=Predictions(shape=prediction),
        target=Targets(shape=target),
    )
    return list(TargetBroadcast().on_loss_calls(obs))


def test_says_both_shapes():
    (finding,) = findings((32, 1), (32,))
    assert finding.severity == Severity.ERROR
    assert finding.message == (
        "mse_loss compares a prediction of shape (32, 1) with a target of shape (32,). They"
        " broadcast to (32, 32), so 1024 differences are taken where there are 32 predictions, each"
        " against the targets of other samples."
    )
    assert finding.evidence == {"prediction": "(32, 1)", "target": "(32,)", "result": "(32, 32)"}


@pytest.mark.parametrize(
    ("prediction", "target"),
    [((32,), (32, 1)), ((4, 1, 8, 8), (4, 8, 8)), ((8, 8), (8, 8, 1)), ((32, 5), (32, 1, 5))],
)
def test_fires(prediction, target):
    assert findings(prediction, target)


def test_fires_on_a_target_that_was_broadcast_before():
    (finding,) = findings((32, 1), (32, 32))
    assert finding.patience == 3


@pytest.mark.parametrize(
    "function", ["gaussian_nll_loss", "poisson_nll_loss", "kl_div", "handwritten error"]
)
def test_other_functions(function):
    assert findings((32, 1), (32,), function, "other")


def test_says_what_became_of_products():
    (finding,) = findings((32,), (32, 1), "handwritten product", "other")
    assert finding.patience == 3
    assert finding.message == (
        "The loss is made of a product of (32,) and (32, 1), of which the first is trained. They"
        " broadcast to (32, 32), so 1024 products are taken where there are 32 samples: their mean"
        " is only the mean of the one times the mean of the other."
    )


def test_silent_on_products_of_few():
    assert findings((4,), (4, 1), "handwritten product", "other") == []


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        ((32, 1), (32, 1)),
        ((1, 1), (1,)),  # the last batch
        ((32, 3), (32, 1)),  # three heads
        ((5, 32), (32,)),  # an ensemble
        ((32, 1), (1, 32)),  # pairs on purpose
        ((32, 5, 1), (32, 1, 5)),
        ((32, 5, 1), (32, 1, 7)),
        ((4, 3, 8, 8), (3, 1, 1)),
        ((), (1,)),
        ((1,), (1, 1)),
        ((4, 1), (4, 4)),
        ((32, 1), (32, 5)),
        ((3, 7), (5,)),
    ],
)
def test_silent(prediction, target):
    assert findings(prediction, target) == []


def test_silent_on_losses_that_take_other_shapes():
    assert findings((32, 10), (32,), "cross_entropy", "logits") == []
    assert findings((32, 1), (32,), "Rmse", "other") == []
