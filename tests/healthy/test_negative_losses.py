"""Healthy losses that fall far below zero."""

import functools

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def data(n=1024, level=500.0):
    """Features, a target, what each of three actions returns, and one of two domains."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 8, generator=generator)
    y = x[:, :2].sum(1, keepdim=True) * 0.1 + 0.02 * torch.randn(n, 1, generator=generator)
    returns = level + 300.0 * torch.stack([x[:, 2], x[:, 3], -x[:, 2]], dim=1)
    return DataLoader(TensorDataset(x, y, returns, (x[:, 4] > 0).long()), 32, shuffle=True)


class Fit(Program):
    def __init__(self, **heads):
        super().__init__(mlp(8, 32), optimizer=functools.partial(torch.optim.Adam, lr=2e-3))
        self.heads = nn.ModuleDict(heads)


class Returns(Fit):
    """Returns of hundreds are to grow, beside an ordinary loss that is a thousandth of them."""

    def __init__(self):
        super().__init__(policy=mlp(32, 3), value=mlp(32, 1))

    def training_step(self, batch, batch_idx):
        x, y, returns, _ = batch
        hidden = self.net(x)
        gain = (self.heads["policy"](hidden).softmax(1) * returns).sum(1).mean()
        return F.mse_loss(self.heads["value"](hidden), y) - gain


class Density(Fit):
    """The log-density of narrow data in many dimensions, summed."""

    def __init__(self):
        super().__init__(mean=mlp(32, 1), spread=mlp(32, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch[:2]
        hidden = self.net(x)
        mean, log_scale = self.heads["mean"](hidden), self.heads["spread"](hidden)
        density = torch.distributions.Normal(mean, log_scale.clamp(-6.0, 2.0).exp()).log_prob(y)
        return F.mse_loss(mean, y) - 64.0 * density.mean()


class Adversary(Fit):
    """Features from which the domain is not to be told; its classifier learns at the same time."""

    def __init__(self):
        super().__init__(task=mlp(32, 1), domain=mlp(32, 2))

    def training_step(self, batch, batch_idx):
        x, y, _, domain = batch
        hidden = self.net(x)
        told = self.heads["domain"](hidden.detach())
        frozen = {name: p.detach() for name, p in self.heads["domain"].named_parameters()}
        fooled = functional_call(self.heads["domain"], frozen, (hidden,))
        task = F.mse_loss(self.heads["task"](hidden), y)
        return task + F.cross_entropy(told, domain) - 0.1 * F.cross_entropy(fooled, domain)


@pytest.mark.parametrize("module", [Returns, Density, Adversary])
def test_negative_losses(module):
    assert alarms(fit(module, data(), epochs=8)) == []


def test_returns_that_start_at_nothing():
    assert alarms(fit(Returns, data(level=0.0), epochs=8)) == []
