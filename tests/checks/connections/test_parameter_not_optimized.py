import pytest

from lightning_debug.checks.connections.parameter_not_optimized import ParameterNotOptimized
from lightning_debug.finding import Severity
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
