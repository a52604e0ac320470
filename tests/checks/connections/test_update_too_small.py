import pytest

from lightning_debug.checks.connections.update_too_small import UpdateTooSmall
from lightning_debug.finding import Severity
from tests.build_updates import ratios, told, updates


def test_fires():
    [finding] = told(UpdateTooSmall(), ratios(1e-9, 2e-9, 3e-9, lr=1e-9))
    assert finding.message == (
        "One step of Adam changes the weights by 2.0e-09 of their size (median of 3; about 1e-3 is"
        " usual); its learning rate is 1e-09."
    )
    assert (finding.where, finding.severity) == ("Adam", Severity.WARNING)
    assert finding.evidence == {"ratio": 2e-9, "lr": 1e-9}


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([ratios(1e-3)], id="usual"),
        pytest.param([ratios(1e-5)], id="fine-tuning"),
        pytest.param([ratios(1e-9, 1e-3, 1e-3)], id="one slow layer"),
        pytest.param([ratios(1e-3), ratios(1e-9)], id="converged"),
        pytest.param([ratios(1e-9, lr=1e-9), ratios(1e-9, lr=2e-9)], id="warm-up"),
        pytest.param([ratios(0.0, lr=0.0)], id="no update at all is another finding"),
        pytest.param([updates({"b": {"update_rms": 1e-9, "fan_in": 0}})], id="a bias"),
    ],
)
def test_silent(observations):
    assert told(UpdateTooSmall(), *observations) == []
