import pytest

from lightning_debug.checks.parameters.module_in_train_mode import ModuleInTrainMode
from lightning_debug.finding import Severity
from lightning_debug.observation import Modes
from tests.build_modes import training, validation


def test_fires():
    (finding,) = ModuleInTrainMode().on_modes(validation(norms=("net.1",)))
    assert finding.message == (
        "net (Sequential) is validated in train mode: dropout is on in net.2 and batch norm uses"
        " the statistics of the batch in net.1."
    )
    assert finding.where == "net"
    assert finding.severity is Severity.ERROR


def test_sampling_does_not_excuse_a_batch_norm():
    (finding,) = ModuleInTrainMode().on_modes(validation(norms=("net.1",), sampled=True))
    assert finding.severity is Severity.ERROR


def test_only_informs_of_batch_norms_alone():
    (finding,) = ModuleInTrainMode().on_modes(
        validation(place="net.1", dropouts=(), norms=("net.1",), weights=False)
    )
    assert finding.severity is Severity.INFO


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(Modes(stage="validation"), id="all in eval mode"),
        pytest.param(validation(weights=False), id="Monte Carlo dropout"),
        pytest.param(validation(sampled=True), id="one input, many samples"),
        pytest.param(training(), id="not in validation"),
    ],
)
def test_silent(obs):
    assert not list(ModuleInTrainMode().on_modes(obs))
