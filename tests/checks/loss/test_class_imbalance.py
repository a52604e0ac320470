import pytest

from lightning_debug.checks.loss.class_imbalance import ClassImbalance
from lightning_debug.observation import LossCall, LossCalls, Targets
from tests.build_observations import labelled

TARGET = Targets(shape=(64,), dtype="integer", whole=True, per_sample=True)


def findings(counts, *, looks=8, step=100, target=TARGET, **changes):
    """Return what the check says of the last of equal looks."""
    check = ClassImbalance()
    call = LossCall(
        function="cross_entropy", kind="logits", counts=counts, target=target, **changes
    )
    found = []
    for _ in range(looks):
        found = list(check.on_loss_calls(LossCalls(step=step, calls=(call,))))
    return found


LOST = labelled([60, 4], [60, 0])


def test_says_what_is_lost():
    (finding,) = findings(LOST)
    assert finding.message == (
        "94% of the targets of cross_entropy are class 0, and the loss does not weigh classes."
        " Class 1 is lost: of its 20 targets in the last 5 looks 0 were predicted right."
    )
    assert "pos_weight" in finding.fix


def test_several_rare_classes():
    (finding,) = findings(labelled([120, 4, 4], [120, 0, 0]))
    assert "So are 1 other rare classes." in finding.message


def test_weights_that_are_the_shares():
    (finding,) = findings(labelled([60, 4], [60, 0], weights=[0.94, 0.06]), weighted=True)
    assert "the loss weighs them 15.7 times as much as class 1" in finding.message
    assert "the wrong way round" in finding.message
    assert "inverse" in finding.fix


@pytest.mark.parametrize(
    ("counts", "weights"),
    [
        pytest.param([60, 4], [0.06, 0.94], id="the inverse"),
        pytest.param([60, 4], [1.0, 1.0], id="all alike"),
        pytest.param([60, 4], [1.0, 0.0], id="a class that does not count"),
        pytest.param([60, 4], [1.0, 0.5], id="a cost"),
        pytest.param([30, 30, 3], [1.0, 1.0, 0.1], id="a class that counts less than all others"),
        pytest.param([60, 15, 4], [0.8, 1.2, 0.1], id="another order"),
        pytest.param([60, 4], [], id="weights of samples"),
    ],
)
def test_other_weights(counts, weights):
    lost = labelled(counts, [*counts[:-1], 0], weights=weights)
    assert findings(lost, weighted=True, step=500, looks=16) == []


def test_silent():
    assert findings(LOST, weighted=True) == []
    assert findings(LOST, reduction="none") == []
    assert findings(LOST, step=60) == []
    assert findings(LOST, looks=3) == []
    assert findings(LOST, target=Targets(shape=(64, 20), dtype="integer")) == []
    assert findings(labelled([60, 4], [60, 1])) == []
    assert findings(labelled([60, 10], [60, 0]), step=500) == []
    assert findings(labelled([60, 4], [40, 0])) == []
    assert findings(labelled([64, 0], [64, 0])) == []
    assert findings(labelled([], [])) == []


def test_waits_for_classes_that_are_told_apart():
    apart = labelled([60, 4], [60, 0], own=0.4, other=0.1)
    assert findings(apart, step=150) == []
    assert findings(apart, step=250)


def test_waits_longer_where_classes_are_less_unbalanced():
    rare = labelled([60, 6], [60, 0])
    assert findings(rare, step=150) == []
    assert findings(rare, step=250)
