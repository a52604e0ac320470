import math

import pytest

from lightning_debug.checks.parameters.dropout_before_batch_norm import DropoutBeforeBatchNorm
from lightning_debug.observation import DataFlow, DroppedNorm


def flow(**changes):
    fields = {"dropout": "net.2", "norm": "net.3", "p": 0.5, "shift": 1.9}
    return DataFlow(dropped_norms=(DroppedNorm(**fields | changes),))


def test_fires():
    (finding,) = DropoutBeforeBatchNorm().on_data_flow(flow(through=("relu", "add")))
    assert finding.message == (
        "net.2 (p=0.5) feeds net.3 through relu, add: its input has 1.90 times the variance in"
        " training that it has in evaluation."
    )
    assert finding.where == "net.3"


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(DataFlow(), id="no dropout on the way"),
        pytest.param(flow(shift=1.02), id="small shift"),
        pytest.param(flow(shift=math.nan), id="constant input"),
    ],
)
def test_silent(obs):
    assert not list(DropoutBeforeBatchNorm().on_data_flow(obs))
