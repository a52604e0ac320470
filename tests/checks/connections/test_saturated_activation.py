import pytest

from lightning_debug.checks.connections.saturated_activation import SaturatedActivation
from tests.build_observations import activations, nonlinear


def look(**changes):
    return activations(nonlinear(**{"kind": "tanh", "saturated_share": 0.97} | changes))


def test_fires():
    (finding,) = SaturatedActivation().on_activations(look())
    assert finding.message == "97% of the values of net.1 (tanh) are pinned at its bounds."
    assert finding.where == "net.1"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"saturated_share": 0.6}, id="some values"),
        pytest.param({"kind": "sigmoid", "gate": True}, id="gate"),
        pytest.param({"kind": "sigmoid", "head": True}, id="confident output"),
        pytest.param({"kind": "sigmoid", "compared": True}, id="output that a net judges too"),
        pytest.param({"trained": False}, id="frozen"),
        pytest.param({"kind": "relu"}, id="another function"),
    ],
)
def test_silent(changes):
    assert not list(SaturatedActivation().on_activations(look(**changes)))
