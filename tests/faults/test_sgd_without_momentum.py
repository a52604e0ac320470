"""Plain gradient descent, and the same with momentum: worth knowing, never an alarm."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, regression


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))


@pytest.mark.parametrize(
    ("net", "loss", "data"),
    [
        pytest.param(cnn, F.cross_entropy, lambda: digits(flat=False, n=512), id="CNN"),
        pytest.param(mlp, F.mse_loss, regression, id="MLP"),
    ],
)
def test_sgd_without_momentum(net, loss, data):
    plain = partial(torch.optim.SGD, lr=0.05)
    heavy = partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True)
    found, fixed = (
        fit(lambda rule=rule: Program(net(), loss, rule), data(), epochs=1)
        for rule in (plain, heavy)
    )
    (finding,) = [f for f in found.findings if f.name == "sgd-without-momentum"]
    assert (finding.severity, finding.where) == ("info", "SGD")
    assert alarms(found) == alarms(fixed) == []
    assert "sgd-without-momentum" not in {f.name for f in fixed.findings}
