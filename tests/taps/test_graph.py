import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_debug.taps.graph import is_size_of_activations, only_inputs

X = torch.randn(4, 8)
LAYER = nn.Linear(8, 8)


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(lambda h: h.square().mean(), id="square"),
        pytest.param(lambda h: h.relu().pow(2).sum(1).mean(), id="pow"),
        pytest.param(lambda h: h.tanh().abs().sum(), id="abs"),
        pytest.param(lambda h: (h * h).mean(), id="product with itself"),
        pytest.param(lambda h: h.relu().view(-1).norm(), id="norm"),
    ],
)
def test_a_size_of_activations(term):
    assert is_size_of_activations(term(LAYER(X)).grad_fn)


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(lambda h: (h - X).square().mean(), id="a residual"),
        pytest.param(lambda h: (h + X).abs().mean(), id="a sum"),
        pytest.param(lambda h: F.mse_loss(h, X), id="a loss"),
        pytest.param(lambda h: h.mean(), id="a mean"),
        pytest.param(lambda h: h.exp().sum(), id="an exponential"),
        pytest.param(lambda h: LAYER.weight.square().sum(), id="weights"),
        pytest.param(lambda h: (h.relu() * h).mean(), id="a product"),
        pytest.param(lambda h: (h.log_softmax(1) * X).sum(1).mean(), id="cross entropy by hand"),
        pytest.param(lambda h: torch.ones(()), id="a constant"),
    ],
)
def test_something_else(term):
    assert not is_size_of_activations(term(LAYER(X)).grad_fn)


def test_a_gradient_is_no_activation():
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(LAYER(x).tanh().sum(), x, create_graph=True)
    assert not is_size_of_activations(slope.square().sum(1).mean().grad_fn)


def test_only_inputs():
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(LAYER(x).tanh().sum(), x)
    (leaf,) = only_inputs((slope * x.sin()).square().mean().grad_fn)
    assert leaf is x


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(lambda x: LAYER(x).sum(), id="weights"),
        pytest.param(lambda x: (LAYER(X).sum() * x).sum(), id="weights beside it"),
        pytest.param(
            lambda x: checkpoint(LAYER, x, use_reentrant=True).sum(), id="hidden in a checkpoint"
        ),
    ],
)
def test_parameters_behind(term):
    assert only_inputs(term(X.clone().requires_grad_()).grad_fn) == []
