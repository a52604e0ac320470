import math

import pytest

from lightning_debug.checks.loss.initial_loss import InitialLoss
from lightning_debug.finding import Severity
from tests.build_observations import activations, loss_calls, module, run_start


def regression(value, *, zero=1.0, mean=1.0, target_mean=0.0, target_std=1.0, **changes):
    return loss_calls(
        function=changes.pop("function", "mse_loss"),
        value=value,
        references={"zero": zero, "mean": mean},
        classes=0,
        target_mean=target_mean,
        target_std=target_std,
        **changes,
    )


def test_fires():
    (finding,) = InitialLoss().on_loss_calls(loss_calls(value=14.2, prediction_rms=19.0))
    assert finding.message == (
        "The first cross_entropy is 14.2; chance over 10 classes is ln 10 = 2.303."
        " The predictions have an rms of 19."
    )
    assert finding.where == "training_step"
    assert finding.severity == Severity.WARNING


def test_blames_input_and_weights():
    check = InitialLoss()
    list(check.on_run_start(run_start(net__0__weight={}, net__4__weight={"rms": 1.0})))
    list(check.on_activations(activations(module("net.0", input_rms=130.0))))
    (finding,) = check.on_loss_calls(loss_calls(value=14.2))
    assert "the rms at net.0 is 130, not about 1" in finding.message
    assert "net.4.weight is 8 / sqrt(fan_in)" in finding.message
    assert "(x - mean) / std" in finding.fix


def test_fires_on_targets_far_from_zero():
    obs = regression(1e6, zero=1e6, mean=400.0, target_mean=1000.0, target_std=20.0)
    (finding,) = InitialLoss().on_loss_calls(obs)
    assert finding.message == (
        "The first mse_loss is 1e+06; predicting the target mean (1000) gives 400. The targets"
        " lie far from zero for their spread (20), where a fresh network starts."
    )
    assert "head.bias.data.fill_(1000)" in finding.fix


def test_fires_on_large_predictions():
    (finding,) = InitialLoss().on_loss_calls(regression(100.0))
    assert "predicting nothing but zeros gives 1." in finding.message


def test_features_that_go_with_the_labels_are_no_margin():
    (finding,) = InitialLoss().on_loss_calls(loss_calls(value=30.0, margin=8.0, margin_size=0.5))
    assert finding.severity == Severity.WARNING


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"margin": 8.0, "margin_size": 5.0}, id="margin"),
        pytest.param({"unscaled": 2.4}, id="temperature"),
    ],
)
def test_only_info_where_the_loss_raises_it(changes):
    (finding,) = InitialLoss().on_loss_calls(loss_calls(value=30.0, **changes))
    assert finding.severity == Severity.INFO


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(loss_calls(value=0.01), id="fine-tuning"),
        pytest.param(loss_calls(value=3.9), id="a little above chance"),
        pytest.param(loss_calls(value=14.0, resumed=True), id="resumed"),
        pytest.param(loss_calls(value=14.0, references={}), id="no reference"),
        pytest.param(loss_calls(value=14.0, references={"zero": math.nan}), id="reference of nan"),
        pytest.param(loss_calls(value=math.nan), id="not finite"),
        pytest.param(
            loss_calls(value=6.9, references={"uniform": 6.76}), id="weighted soft targets"
        ),
        pytest.param(
            loss_calls(value=4.6, references={"uniform": 2.3, "prior": 4.5}), id="rare classes"
        ),
        pytest.param(
            loss_calls(value=2.3, references={"zero": 1.0}, classes=0, target_std=1.0),
            id="handwritten regression",
        ),
        pytest.param(regression(2.1), id="predictions as large as the targets"),
        pytest.param(
            regression(28000, zero=28429, mean=5929, target_mean=150.0, target_std=77.0),
            id="raw targets",
        ),
        pytest.param(
            regression(25.0, zero=0.0, mean=0.0, target_mean=0.0, target_std=0.0),
            id="a penalty towards zero",
        ),
        pytest.param(regression(1.9, function="l1_loss"), id="absolute error"),
        pytest.param(regression(28.0, unused=0.9), id="most errors are masked"),
    ],
)
def test_silent(obs):
    assert not list(InitialLoss().on_loss_calls(obs))


def test_silent_after_the_first_look():
    check = InitialLoss()
    assert not list(check.on_loss_calls(loss_calls()))
    assert not list(check.on_loss_calls(loss_calls(value=50.0)))
