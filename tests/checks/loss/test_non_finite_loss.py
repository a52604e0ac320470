import math

import pytest

from lightning_debug.checks.loss.non_finite_loss import NonFiniteLoss
from lightning_debug.finding import Severity
from lightning_debug.observation import Losses, Precision


def losses(*values, **changes):
    return Losses(values=tuple(enumerate(values)), **changes)


def test_fires():
    (finding,) = NonFiniteLoss().on_losses(losses(2.3, 2.1, math.nan, math.nan))
    assert finding.message == (
        "The loss is nan from step 2 on. All modules gave finite values: the targets or the loss"
        " computation made it."
    )
    assert finding.where == "loss"
    assert finding.severity == Severity.ERROR


def test_counts_the_broken_parameters():
    obs = losses(math.inf, broken=("net.0.weight", "net.0.bias"), activations_finite=False)
    (finding,) = NonFiniteLoss().on_losses(obs)
    assert finding.message == (
        "The loss is inf from step 0 on. By now 2 parameters are not finite, net.0.weight first."
    )
    assert "detect_anomaly=True" in finding.fix


def test_fires_where_no_loss_is_finite_any_more():
    check = NonFiniteLoss()
    assert not list(check.on_losses(losses(2.3, *[math.nan] * 5, skipped=True)))
    (finding,) = check.on_losses(losses(*[math.nan] * 5, skipped=True))
    assert finding.message.startswith("The loss is nan from step 1 on.")


def test_a_scaler_may_have_refused_a_step_between_two_looks():
    check = NonFiniteLoss()
    assert not list(check.on_precision(Precision(scale=65536.0)))
    assert not list(check.on_losses(losses(2.3, math.inf, 2.1)))
    assert list(check.on_losses(losses(2.3, math.inf, 2.1, broken=("net.0.weight",))))


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(losses(2.3, 2.1), id="finite"),
        pytest.param(losses(-1e9, 1e30), id="large and negative"),
        pytest.param(losses(), id="no loss (manual optimization)"),
        pytest.param(losses(2.3, math.nan, skipped=True), id="refused by the gradient scaler"),
    ],
)
def test_silent(obs):
    assert not list(NonFiniteLoss().on_losses(obs))
