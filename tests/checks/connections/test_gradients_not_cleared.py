import pytest

from lightning_debug.checks.connections.gradients_not_cleared import GradientsNotCleared
from lightning_debug.finding import Severity
from tests.build_connections import uses
from tests.build_updates import told

AGAIN = uses({"again": True})
MIXED = uses({"optimizer": "Adam 0"}, {"optimizer": "Adam 1", "source": "Adam 0"})


def test_fires_when_gradients_pile_up():
    [finding] = told(GradientsNotCleared(), *[AGAIN] * 3)
    assert finding.message == (
        "SGD has made 3 steps in a row with gradients that it had used before: nothing cleared"
        " them, so those of the next batch were added."
    )
    assert (finding.where, finding.severity) == ("SGD", Severity.ERROR)


def test_fires_for_what_another_loss_left():
    [finding] = told(GradientsNotCleared(), *[MIXED] * 3)
    assert finding.message == (
        "Adam 1 steps with gradients that the loss of Adam 0 has left in its weights: Adam 0 has"
        " made its step, and nothing cleared them before the next backward added to them."
    )
    assert finding.where == "Adam 1"


def test_a_batch_without_a_step_changes_nothing():
    assert told(GradientsNotCleared(), AGAIN, AGAIN, uses(), AGAIN)


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([AGAIN] * 2, id="too few"),
        pytest.param([AGAIN, AGAIN, uses({}), AGAIN], id="cleared in between"),
        pytest.param([uses({})] * 9, id="cleared"),
        pytest.param([uses({"batches": 4})] * 9, id="accumulated"),
    ],
)
def test_silent(observations):
    assert told(GradientsNotCleared(), *observations) == []
