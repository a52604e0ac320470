import pytest

from lightning_debug.checks import BatchNormNotSynced
from lightning_debug.observation import Plan
from tests.build_norms import judged, norms


@pytest.mark.parametrize(
    ("values", "samples"), [pytest.param(8, 8, id="mlp"), pytest.param(2048, 2, id="cnn")]
)
def test_small_in_each_process(values, samples):
    obs = norms(values=values, samples=samples)
    (finding,) = judged(BatchNormNotSynced(), obs, plan=Plan(processes=4))
    assert finding.message == (
        f"net.1 normalises over the batch of one process only: {samples} samples, {values} values"
        " a channel, in each of 4 processes."
    )


@pytest.mark.parametrize(
    ("obs", "processes"),
    [
        pytest.param(norms(values=8, samples=8), 1, id="one process"),
        pytest.param(norms(values=32, samples=32), 8, id="enough in each"),
        pytest.param(norms(values=2048, samples=16), 8, id="enough images"),
        pytest.param(norms(values=4, stage="validation"), 8, id="validation"),
    ],
)
def test_silent(obs, processes):
    assert judged(BatchNormNotSynced(), obs, plan=Plan(processes=processes)) == []
