from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.underflow import flushed, in_half
from tests.runs import Program


class Times(Program):
    def __init__(self, factor, dtype=torch.float16):
        net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)
        super().__init__(net, F.mse_loss)
        self.factor = factor

    def training_step(self, batch, batch_idx):
        x, y = batch
        return (self.net(x.to(self.net[0].weight.dtype)).float() - y).square().mean() * self.factor


def compared(factor, **settings):
    torch.manual_seed(0)
    batch = torch.randn(32, 8), torch.randn(32, 1)
    model = Times(factor)  # kept alive: a copy knows the tensors of the original by identity
    replica = Replica(model, dtype=None)
    with replica.working():
        return flushed(replica, batch, step=0, epoch=0, **settings)


def test_small_gradients_are_lost():
    found = compared(1e-7).flushed
    assert found["net.0.weight"].error > 0.9
    assert found["net.0.weight"].zeros > 0.5


@pytest.mark.parametrize(
    ("factor", "scale"),
    [pytest.param(1.0, 1.0, id="large enough"), pytest.param(1e-7, 2.0**15, id="scaled")],
)
def test_others_are_not(factor, scale):
    assert all(g.error < 0.1 for g in compared(factor, scale=scale).flushed.values())


def test_it_says_where_it_cannot_tell():
    with pytest.raises(NotApplicableError, match="not finite"):
        compared(1e30)
    with pytest.raises(NotApplicableError, match="overflow"):
        compared(2e4)


def test_it_is_asked_only_where_there_is_float16():
    autocast = partial(torch.autocast, "cpu", torch.float16)
    assert in_half(Times(1.0), nullcontext)
    assert in_half(Times(1.0, torch.float32), autocast)
    assert not in_half(Times(1.0, torch.float32), nullcontext)
    assert not in_half(Times(1.0, torch.bfloat16), nullcontext)
    assert not in_half(Times(1.0).requires_grad_(False), nullcontext)
