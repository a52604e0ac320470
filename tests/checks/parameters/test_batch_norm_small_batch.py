import pytest

from lightning_debug.checks import BatchNormSmallBatch
from lightning_debug.observation import Plan
from tests.build_norms import judged, norms


def test_says_how_few():
    (finding,) = judged(BatchNormSmallBatch(), norms(values=4, samples=4))
    assert finding.where == "net.1"
    assert finding.message == (
        "net.1 takes mean and variance of 4 values a channel (input with 4 on its first axis);"
        " it needs 8 at least."
    )


def test_two_values_leave_a_sign():
    (finding,) = judged(BatchNormSmallBatch(), norms(values=2, samples=2, line="net.py:7"))
    assert finding.message == (
        "net.1 (net.py:7) takes mean and variance of 2 values a channel, so its output is 1 and"
        " -1 whatever the values are."
    )


def test_accumulation_does_not_help():
    plan = Plan(accumulate=8)
    (finding,) = judged(BatchNormSmallBatch(), norms(values=4), plan=plan)
    assert "accumulate_grad_batches=8 does not change that" in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(norms(values=8), id="eight"),
        pytest.param(norms(values=128, samples=2), id="two images"),
        pytest.param(norms(values=2, training=False), id="running statistics"),
        pytest.param(norms(values=2, stage="validation"), id="validation"),
    ],
)
def test_silent(obs):
    assert judged(BatchNormSmallBatch(), obs) == []


def test_a_ragged_batch_is_none_in_a_row():
    assert BatchNormSmallBatch().patience > 1
