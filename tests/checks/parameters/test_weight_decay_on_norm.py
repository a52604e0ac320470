import pytest

from lightning_debug.checks.parameters.weight_decay_on_norm import WeightDecayOnNorm
from tests.build_updates import updates


def found(**changes):
    scale = {"weight_decay": 0.1, "fan_in": 0, "normalizes": True} | changes
    matrix = {"weight_decay": 0.1, "fan_in": 64}
    bias = {"weight_decay": 0.1, "fan_in": 0}
    parameters = {"net.0.weight": matrix, "net.0.bias": bias, "net.1.weight": scale}
    return list(WeightDecayOnNorm().on_updates(updates(parameters)))


def test_scale_that_decays():
    (finding,) = found()
    assert finding.message == (
        "weight_decay=0.1 of Adam also pulls 1 scales and shifts of norms towards 0, first"
        " net.1.weight, and 1 other vectors such as biases."
    )
    assert finding.where == "Adam"
    assert finding.severity == "info"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"weight_decay": 0.0}, id="in a group without decay"),
        pytest.param({"weight_decay": 1e-5}, id="slight decay"),
        pytest.param({"normalizes": False}, id="only biases decay"),
        pytest.param({"trainable": False}, id="frozen"),
    ],
)
def test_silent(changes):
    assert not found(**changes)
