import pytest

from lightning_debug.checks.data.constant_target import ConstantTarget
from lightning_debug.observation import LossTerm, LossTerms
from tests.build_data import batch, inputs, start, targets

SAME = targets(*[3] * 32)


def judge(tensors, *, looks=12, terms=1, epochs=1, **loader):
    check = ConstantTarget()
    list(check.on_run_start(start(**loader)))
    found = []
    for step in range(looks):
        tensor = tensors[step % len(tensors)]
        found = list(check.on_batch(batch(inputs(), tensor, step=step, epoch=step % epochs)))
        list(check.on_loss_terms(LossTerms(terms=(LossTerm(name="mse_loss"),) * terms)))
    return found


def test_fires():
    (finding,) = judge([SAME])
    assert finding.message == (
        "All targets (batch[1]) that were seen in 12 batches with 384 samples are 3."
    )
    assert finding.where == "batch[1]"


def test_fires_in_order_after_an_epoch():
    assert judge([SAME], order="sequential", epochs=2)
    assert judge([SAME], order="sequential", batches=12)


@pytest.mark.parametrize(
    ("tensors", "settings"),
    [
        pytest.param([targets()], {}, id="targets differ"),
        pytest.param([SAME] * 11 + [targets(*[4] * 32)], {}, id="batches differ"),
        pytest.param([SAME], {"looks": 9}, id="few looks"),
        pytest.param([targets(3, 3, 3, 3)], {}, id="few samples"),
        pytest.param([SAME], {"terms": 2}, id="another term"),
        pytest.param([SAME], {"order": "sequential"}, id="the first part of sorted data"),
        pytest.param([inputs("batch[1]")], {}, id="no target in the batch"),
    ],
)
def test_silent(tensors, settings):
    assert not judge(tensors, **settings)
