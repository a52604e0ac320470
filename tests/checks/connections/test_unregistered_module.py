import pytest

from lightning_debug.checks.connections.unregistered_module import UnregisteredModule
from lightning_debug.finding import Severity
from tests.build_connections import strangers
from tests.build_updates import told


def test_fires_for_a_hidden_layer():
    [finding] = told(UnregisteredModule(), strangers({}))
    assert finding.message == (
        "net.layers[1].weight is used in the forward pass (model.py:41) and gets a gradient, but"
        " it is not registered in the model: it is not among parameters(), and its values do not"
        " change from update to update."
    )
    assert (finding.where, finding.severity) == ("net.layers[1].weight", Severity.ERROR)
    assert "nn.ModuleList" in finding.fix


def test_fires_for_a_layer_built_in_forward():
    anew = {"where": "Linear.weight in net", "anew": True, "moved": None}
    [finding] = told(UnregisteredModule(), strangers(anew))
    assert finding.message == (
        "Linear.weight in net is built anew in each training step (model.py:41): its weights are"
        " random again each time, and nothing is learned in them."
    )
    assert finding.severity is Severity.ERROR


def test_warns_of_what_only_an_optimizer_knows():
    [finding] = told(UnregisteredModule(), strangers({"optimizer": "Adam", "moved": True}))
    assert "is trained by Adam" in finding.message
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"moved": None}, id="seen for the first time"),
        pytest.param({"moved": True}, id="changed by hand"),
        pytest.param({"gradient": False}, id="gets no gradient"),
        pytest.param({"resting": True}, id="a helper in eval mode"),
        pytest.param({"copied": True}, id="a copy of a registered part"),
        pytest.param({"anew": True, "adapted": True}, id="made and adapted in the step"),
        pytest.param({"anew": True, "optimizer": "SGD"}, id="made and trained in the step"),
        pytest.param({"anew": True, "gradient": False}, id="made for the step, without gradient"),
    ],
)
def test_silent(change):
    assert told(UnregisteredModule(), strangers(change)) == []
