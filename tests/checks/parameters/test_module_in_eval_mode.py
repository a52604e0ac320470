import pytest

from lightning_debug.checks.parameters.module_in_eval_mode import ModuleInEvalMode
from lightning_debug.finding import Severity
from lightning_debug.observation import Modes
from tests.build_modes import training, validation


def test_fires():
    (finding,) = ModuleInEvalMode().on_modes(training(norms=("net.1", "net.4")))
    assert finding.message == (
        "net (Sequential) is trained in eval mode: dropout is off in net.2 and batch norm uses its"
        " running statistics in net.1, net.4."
    )
    assert finding.where == "net"
    assert finding.severity is Severity.WARNING


def test_names_the_whole_model():
    dropouts = tuple(f"layers.{i}" for i in range(5))
    (finding,) = ModuleInEvalMode().on_modes(training(place="", kind="Bert", dropouts=dropouts))
    assert finding.where == "model"
    assert finding.message == (
        "model (Bert) is trained in eval mode: dropout is off in layers.0, layers.1, layers.2 and"
        " 2 more."
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"trained": False}, "Most of its weights are frozen", id="frozen backbone"),
        pytest.param({"trained": False, "weights": False}, "no weight matrix", id="dropout alone"),
        pytest.param({"chosen": True}, "A train() method of your own", id="overridden"),
    ],
)
def test_only_informs_of_what_may_be_meant(changes, reason):
    (finding,) = ModuleInEvalMode().on_modes(training(**changes))
    assert finding.severity is Severity.INFO
    assert reason in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(Modes(stage="training"), id="all in train mode"),
        pytest.param(validation(), id="not in training"),
    ],
)
def test_silent(obs):
    assert not list(ModuleInEvalMode().on_modes(obs))
