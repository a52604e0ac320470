import pytest

from lightning_debug.checks.distributed.sampler_epoch_not_set import SamplerEpochNotSet
from lightning_debug.observation import Batch, EpochStart, Loader, Plan, RunStart


def told(orders, *, processes=2, loader=None):
    """Return what is told of epochs that start with these batches."""
    check = SamplerEpochNotSet()
    loader = loader or Loader(shares=True)
    list(check.on_run_start(RunStart(parameters={}, loader=loader)))
    list(check.on_plan(Plan(processes=processes)))
    starts = tuple(
        EpochStart(epoch=epoch, index=index, prints={"batch[0]": value})
        for epoch, order in enumerate(orders)
        for index, value in enumerate(order)
    )
    return list(check.on_batch(Batch(starts=starts)))


SAME = [[1.0, 2.0, 3.0, 4.0]] * 2


def test_the_same_order_in_two_epochs():
    (finding,) = told(SAME)
    assert "epoch 1 starts with the same 4 batches" in finding.message
    assert "set_epoch" in finding.fix


@pytest.mark.parametrize(
    ("orders", "settings"),
    [
        pytest.param([[1.0, 2.0, 3.0, 4.0], [4.0, 2.0, 3.0, 1.0]], {}, id="another order"),
        pytest.param(SAME, {"processes": 1}, id="one process"),
        pytest.param(SAME, {"loader": Loader()}, id="a sampler that is not meant to shuffle"),
        pytest.param(SAME, {"loader": Loader(shares=True, overfit=True)}, id="overfitting"),
        pytest.param([[1.0, 2.0]] * 2, {}, id="few batches"),
        pytest.param([[1.0] * 4] * 2, {}, id="all batches alike"),
        pytest.param(SAME[:1], {}, id="one epoch"),
    ],
)
def test_quiet(orders, settings):
    assert not told(orders, **settings)
