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


def test_waits_for_a_warm_up_that_rises_once_an_epoch():
    rising = updates({"a.weight": {"update_rms": 1e-9, "lr": 1e-8, "base_lr": 1e-3}})
    (finding,) = UpdateTooSmall().on_updates(rising)
    assert finding.patience == UpdateTooSmall().warm_patience
    full = updates({"a.weight": {"update_rms": 1e-9, "lr": 1e-8, "base_lr": 1e-8}})
    (finding,) = UpdateTooSmall().on_updates(full)
    assert finding.patience == 0
    assert "its learning rate is 1e-08" in finding.message


def test_does_not_wait_for_a_rate_that_falls():
    check = UpdateTooSmall()
    for lr in (1e-8, 1e-9, 1e-9):
        obs = updates({"a.weight": {"update_rms": 1e-9, "lr": lr, "base_lr": 1e-3}})
        found = list(check.on_updates(obs))
    assert found[0].patience == 0
