"""Batch norms in two processes with few samples each, and with enough, or another norm."""

import pytest
from torch import nn

from tests.processes import fit_in_two
from tests.runs import Program, alarms, digits, names, places


def dense(norm=nn.BatchNorm1d):
    return nn.Sequential(nn.Linear(64, 32), norm(32), nn.ReLU(), nn.Linear(32, 10))


def conv(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


@pytest.mark.parametrize(
    ("net", "data", "fix", "better"),
    [
        pytest.param(
            dense,
            lambda: digits(n=160, batch=8),
            dense,
            lambda: digits(n=640, batch=32),
            id="mlp, eight for each",
        ),
        pytest.param(
            conv,
            lambda: digits(flat=False, n=80, batch=2),
            lambda: conv(lambda width: nn.GroupNorm(2, width)),
            lambda: digits(flat=False, n=80, batch=2),
            id="cnn, two images for each",
        ),
    ],
)
def test_pair(net, data, fix, better):
    broken = fit_in_two(lambda: Program(net()), data(), max_epochs=1)
    assert "batch-norm-not-synced" in names(broken)
    assert places(broken, "batch-norm-not-synced") == {"net.1"}
    fixed = fit_in_two(lambda: Program(fix()), better(), max_epochs=1)
    assert not alarms(fixed)
