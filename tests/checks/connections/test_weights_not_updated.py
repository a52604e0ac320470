import pytest

from lightning_debug.checks.connections.weights_not_updated import WeightsNotUpdated
from lightning_debug.finding import Severity
from lightning_debug.observation import RunEnd
from tests.build_updates import told, updates

STUCK = {"changed": 0, "update_rms": 0.0}
REST = {**STUCK, "lr": 0.0, "scheduled": True}


def test_fires_at_learning_rate_zero():
    [finding] = told(WeightsNotUpdated(), updates({"net.0.weight": {**STUCK, "lr": 0.0}}))
    assert finding.message == (
        "net.0.weight has a gradient but has never changed: its learning rate is 0."
    )
    assert (finding.where, finding.severity) == ("net.0.weight", Severity.ERROR)


def test_fires_where_steps_do_nothing():
    [finding] = told(WeightsNotUpdated(), updates({"net.0.weight": {**STUCK, "lr": 0.1}}))
    assert finding.message == (
        "net.0.weight has a gradient but a step with learning rate 0.1 leaves it as it is."
    )


def test_fires_where_the_old_values_come_back():
    step = updates({"net.0.weight": {"moved": False}})
    [finding] = told(WeightsNotUpdated(), updates({"net.0.weight": {}}), step)
    assert finding.message == (
        "Each step changes net.0.weight, but before the next one it is what it was before:"
        " something writes the old values back."
    )


def test_fires_when_a_schedule_stays_at_zero_in_the_next_epoch():
    check = WeightsNotUpdated()
    assert told(check, updates({"w": REST}, epoch=0)) == []
    assert [f.where for f in told(check, updates({"w": REST}, epoch=1))] == ["w"]


def test_fires_when_a_schedule_stays_at_zero_to_the_end():
    [finding] = told(WeightsNotUpdated(), updates({"w": REST}), RunEnd(step=64, epoch=1))
    assert (finding.where, finding.patience) == ("w", 1)


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([updates({"w": {"moved": True}})], id="moves"),
        pytest.param([updates({"w": {}})], id="the first look"),
        pytest.param(
            [updates({"w": REST}), updates({"w": {"moved": False}})], id="the first step that moves"
        ),
        pytest.param([updates({"w": {**STUCK, "driven": 0}})], id="no gradient"),
        pytest.param([updates({"w": {**STUCK, "trainable": False}})], id="frozen"),
        pytest.param([updates({"w": REST})], id="warm-up from zero"),
        pytest.param([updates({"w": REST}), RunEnd(step=3)], id="a dry run"),
        pytest.param(
            [updates({"w": REST}), RunEnd(step=64, completed=False)], id="warm-up, interrupted"
        ),
        pytest.param(
            [updates({"w": REST}), updates({"w": {}}), RunEnd(step=64)], id="warm-up is over"
        ),
        pytest.param([updates({"w": {}}), updates({"w": REST}, epoch=3)], id="decayed to zero"),
        pytest.param([updates({"w": {}}), updates({"w": STUCK})], id="converged to the last digit"),
    ],
)
def test_silent(observations):
    assert told(WeightsNotUpdated(), *observations) == []
