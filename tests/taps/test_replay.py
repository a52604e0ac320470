"""A loss computed again with zeros for the predictions."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.replay import ReplayTap
from lightning_debug.taps.trace import Trace

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


def replay(compute, outputs=3):
    """Return what a loss of a linear layer's outputs is on zeros."""

    def fail(error):
        raise error

    torch.manual_seed(0)
    tap = ReplayTap()
    functions = FunctionTap(Trace({}), [tap], fail)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs))
    tap.begin(wanted=True)
    with functions:
        functions.listening = True
        loss = compute(net(X))
        functions.listening = False
        result = tap.zeroed(loss)
    tap.end()
    return result, loss


def focal(z):
    logp = z.log_softmax(1).gather(1, Y[:, None])
    return -((1 - logp.exp()) ** 2 * logp).mean()


def in_place(z):
    loss = F.one_hot(Y, 3).float() * -F.log_softmax(z, 1)
    total = loss.sum(1).mean()
    total += 0.5 * z.square().mean()
    return total


MEANS = torch.zeros(3)


def written(z):
    z[:, 0] = 0.0
    return z.square().mean()


@pytest.mark.parametrize(
    ("compute", "zero", "squashed"),
    [
        pytest.param(focal, (2 / 3) ** 2 * math.log(3), True, id="focal"),
        pytest.param(lambda z: ((z[:, 0] - 2.0) ** 2).mean(), 4.0, False, id="squared error"),
        pytest.param(lambda z: (z[:, 0] - 2.0) @ (z[:, 0] - 2.0) / 8, 4.0, False, id="product"),
        pytest.param(lambda z: torch.log(torch.cosh(z - 1)).sum(), None, False, id="log cosh"),
        pytest.param(in_place, math.log(3), True, id="summed in place"),
        pytest.param(
            lambda z: F.softplus(-z[:, 0] * (2.0 * (Y > 0) - 1.0)).mean(),
            math.log(2),
            True,
            id="logistic",
        ),
    ],
)
def test_zeros(compute, zero, squashed):
    result, loss = replay(compute)
    expected = compute(torch.zeros(8, 3)).item() if zero is None else zero
    assert result.zero.item() == pytest.approx(expected, rel=1e-5)
    assert result.value.item() == pytest.approx(loss.item())
    assert result.squashed is squashed


def test_a_loss_between_samples_has_no_reference():
    def contrastive(z):
        z = F.normalize(z + 1.0, dim=1)
        return F.cross_entropy(z @ z.T / 0.1, torch.arange(8))

    def spread(z):
        return (z[:, None] - z[None]).square().sum(-1).add(1.0).log().mean()

    assert math.isnan(replay(spread)[0].zero.item())
    # The similarities are a product, so they are the predictions: all alike is chance.
    assert replay(contrastive)[0].zero.item() == pytest.approx(math.log(8), rel=1e-4)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda z: F.dropout(z, 0.5).square().mean(), id="drawn"),
        pytest.param(
            lambda z: F.batch_norm(z, MEANS, MEANS + 1.0, training=True).square().mean(),
            id="with running statistics",
        ),
        pytest.param(written, id="written over"),
        pytest.param(lambda z: torch.zeros(()).add_(1.0) + X.mean(), id="nothing predicted"),
    ],
)
def test_none(compute):
    assert replay(compute)[0] is None


def test_leaves_the_graph_alone():
    result, loss = replay(focal)
    assert result is not None
    loss.backward()
    assert loss.item() == pytest.approx(result.value.item())
