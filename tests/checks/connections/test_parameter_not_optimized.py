import pytest

from lightning_debug.checks.connections.parameter_not_optimized import ParameterNotOptimized
from lightning_debug.finding import Severity
from lightning_debug.observation import Connections, Stray
from tests.build_observations import run_start
from tests.build_updates import gradients, told


def test_fires():
    [finding] = told(
        ParameterNotOptimized(), gradients({"head.weight": {}}, orphans=("net.0.weight",))
    )
    assert finding.message == (
        "net.0.weight is trainable and gets gradients, but it is in no optimizer."
    )
    assert (finding.where, finding.severity) == ("net.0.weight", Severity.ERROR)


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(gradients({"net.0.weight": {}}), id="everything is held"),
        pytest.param(gradients({}), id="no parameters"),
    ],
)
def test_silent(obs):
    assert told(ParameterNotOptimized(), obs) == []


ORPHAN = gradients({"head.weight": {}}, orphans=("net.0.weight",))


def test_says_that_it_was_frozen():
    start = run_start(net__0__weight={"trainable": False})
    [finding] = told(ParameterNotOptimized(), start, ORPHAN)
    assert finding.message.endswith(
        "It was frozen when training started, and the optimizer was built without it."
    )
    assert "add_param_group" in finding.fix


def test_says_that_it_took_the_place_of_another():
    strays = Connections(strays={"net.0.weight": Stray(optimizer="Adam", shape=(1000, 32))})
    [finding] = told(ParameterNotOptimized(), strays, ORPHAN)
    assert finding.message.endswith(
        "Adam holds a tensor of shape (1000, 32) that is not part of the model: the layer was"
        " replaced after the optimizer was built."
    )
