import pytest

from lightning_debug.checks.data.constant_input import ConstantInput
from tests.build_data import batch, column, flow, inputs, prints, start, targets

ZERO = inputs(low=0.0, high=0.0, prints=((0.0, 0.0),) * 32)
ALIKE = inputs(prints=((1.5, 2.5),) * 32)


def judge(*looks, flows=(), **loader):
    check = ConstantInput()
    list(check.on_run_start(start(**loader)))
    found = []
    for look in looks:
        found = list(check.on_batch(look))
    for look in flows:
        found += list(check.on_data_flow(look))
    return found


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        pytest.param(ZERO, "Every value of batch[0] is 0.", id="zero"),
        pytest.param(ALIKE, "All 32 samples of batch[0] are the same.", id="one sample"),
        pytest.param(inputs(), "batch[0] is the same batch at every step.", id="one batch"),
    ],
)
def test_fires(tensor, message):
    looks = batch(tensor, targets()), batch(tensor, targets(), step=1)
    (finding,) = judge(*looks)
    assert finding.message == message
    assert finding.where == "batch[0]"


def test_fires_where_the_step_loses_it():
    still = flow(*(column(i, 3.0, 0.0) for i in range(8)))
    (finding,) = judge(batch(), flows=[still])
    assert finding.message == (
        "What enters net.0 is the same for all 32 samples, though the batch is not: the step"
        " loses it on the way."
    )


@pytest.mark.parametrize(
    ("looks", "loader"),
    [
        pytest.param([batch(), batch(step=1)], {}, id="batches differ"),
        pytest.param([batch(ZERO, inputs("batch[1]"))], {}, id="another input varies"),
        pytest.param([batch(inputs())] * 2, {"batches": 1}, id="one batch is all"),
        pytest.param([batch(inputs())] * 2, {"overfit": True}, id="overfit a batch"),
        pytest.param([batch(inputs())] * 2, {"batch_size": 0}, id="whole batches by design"),
        pytest.param([batch(inputs())] * 2, {"known": False}, id="a loader of one's own"),
        pytest.param([batch(inputs(prints=prints(4) * 8))] * 2, {}, id="few different samples"),
        pytest.param([batch(inputs(features=1, low=1.0, high=1.0))], {}, id="dummy"),
        pytest.param([batch(inputs(samples=1, prints=prints(1)))], {}, id="one sample"),
        pytest.param([batch(targets())], {}, id="no input"),
    ],
)
def test_silent(looks, loader):
    assert not judge(*looks, **loader)


@pytest.mark.parametrize(
    "entering",
    [
        pytest.param(flow(column(0, 1.0, 0.0)), id="one dummy column"),
        pytest.param(flow(column(0, 1.0, 0.0), column(1)), id="another column varies"),
        pytest.param(flow(*(column(i, std=0.0) for i in range(8)), derived=False), id="made up"),
        pytest.param(
            flow(*(column(i, std=0.0) for i in range(8)), target=True), id="shaped like the target"
        ),
        pytest.param(flow(*(column(i, std=0.0) for i in range(8)), rows=1), id="one row"),
    ],
)
def test_silent_on_what_enters(entering):
    assert not judge(batch(), flows=[entering])
