import pytest

from lightning_debug.checks.connections.update_too_large import UpdateTooLarge
from lightning_debug.finding import Severity
from tests.build_updates import losses, ratios, told, updates

FLAT = losses(2.0, 2.1, 2.0, 2.2, 2.1)
FALLING = losses(2.0, 1.5, 1.2, 1.0, 0.9)
RISING = losses(2.3, 30.0, 900.0)


def test_fires():
    [finding] = told(UpdateTooLarge(), FLAT, ratios(0.2, 0.3, 0.4, lr=0.5))
    assert finding.message == (
        "One step of Adam changes the weights by 0.3 of their size (median of 3; about 1e-3 is"
        " usual), most at net.2.weight; its learning rate is 0.5. The loss has gone from 2 to 2.1."
    )
    assert (finding.where, finding.severity, finding.patience) == ("Adam", Severity.WARNING, 0)
    assert finding.evidence == {"ratio": 0.3, "lr": 0.5}


def test_hurries_where_the_initial_weights_are_thrown_away():
    check = UpdateTooLarge()
    told(check, RISING, ratios(2.0))
    grown = updates({"net.0.weight": {"update_rms": 3.0, "weight_rms": 300.0}})
    [finding] = told(check, grown)
    assert "by 3 of their initial size" in finding.message
    assert finding.patience == check.drastic_patience


def test_names_the_group():
    obs = updates({"a": {"update_rms": 0.5, "group": 0}, "b": {"group": 1}})
    [finding] = told(UpdateTooLarge(), FLAT, obs)
    assert finding.where == "Adam group 0"


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([FLAT, ratios(1e-3)], id="usual"),
        pytest.param([FALLING, ratios(0.3)], id="the loss falls"),
        pytest.param(
            [FLAT, updates({"w": {"update_rms": 5.0, "weight_rms": 90.0}})],
            id="weights that have to grow for large targets",
        ),
        pytest.param([FLAT, ratios(1e-3, 1e-3, 5.0)], id="one layer of three"),
        pytest.param([FLAT, updates({"b": {"update_rms": 1.0, "fan_in": 0}})], id="a bias"),
        pytest.param(
            [FLAT, updates({"w": {"update_rms": 1e-3, "weight_rms": 0.0, "fan_in": 64}})],
            id="weights that start at zero",
        ),
        pytest.param(
            [FLAT, updates({"w": {"update_rms": 0.5, "trainable": False}})], id="a moving average"
        ),
    ],
)
def test_silent(observations):
    assert told(UpdateTooLarge(), *observations) == []
