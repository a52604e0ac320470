"""Healthy losses and layers that take the differences of all with all, or of many, on purpose."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit, regression

QUANTILES = torch.tensor([0.1, 0.5, 0.9])


def mlp(inputs=8, outputs=1):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def scalars(n=1024):
    """Two clusters on a line, and a curve over it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=generator) * 0.3 + torch.where(torch.arange(n) % 2 > 0, 1.0, -1.0)
    y = torch.sin(2.0 * x) + 0.1 * torch.randn(n, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


class Quantiles(Program):
    """One target, (N, 1), for several quantiles, (N, 3)."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        error = y - self.net(x)
        return torch.maximum(QUANTILES * error, (QUANTILES - 1.0) * error).mean()


class Generator(Program):
    """Makes numbers of noise, (N, 1), that are spread like those of the batch, (N,)."""

    def __init__(self, distance):
        super().__init__(mlp(4), optimizer=functools.partial(torch.optim.Adam, lr=3e-3))
        self.distance = distance

    def training_step(self, batch, batch_idx):
        real = batch[0]
        return self.distance(self.net(torch.randn(len(real), 4)), real)


def kernel(left, right):
    return torch.exp(-((left - right) ** 2) / 0.5).mean()


def cauchy(left, right):
    return (1.0 / (1.0 + ((left - right) / 0.5) ** 2)).mean()


def discrepancy(fake, real, kernel):
    """Maximum mean discrepancy."""
    itself = kernel(fake, fake.squeeze(1)) + kernel(real[:, None], real)
    return itself - 2.0 * kernel(fake, real)


def chamfer(fake, real):
    distance = (fake - real).abs()
    return distance.min(dim=0).values.mean() + distance.min(dim=1).values.mean()


class Knots(Program):
    """A piecewise linear curve: as many knots as there are samples in a batch."""

    def __init__(self, bump=torch.relu):
        super().__init__(nn.Identity(), optimizer=functools.partial(torch.optim.Adam, lr=1e-2))
        self.knots = nn.Parameter(torch.linspace(-2.0, 2.0, 32))
        self.slopes = nn.Parameter(torch.randn(32) * 0.1)
        self.offset = nn.Parameter(torch.zeros(1))
        self.bump = bump

    def training_step(self, batch, batch_idx):
        x, y = batch
        curve = (self.bump(x[:, None] - self.knots) * self.slopes).sum(1) + self.offset
        return (curve - y).square().mean()


def gaussian(difference):
    return torch.exp(-difference.square() / 0.1)


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(lambda: Quantiles(mlp(outputs=3)), regression, id="several quantiles"),
        pytest.param(
            lambda: Generator(lambda a, b: discrepancy(a, b, kernel)), scalars, id="Gaussian kernel"
        ),
        pytest.param(
            lambda: Generator(lambda a, b: discrepancy(a, b, cauchy)), scalars, id="Cauchy kernel"
        ),
        pytest.param(lambda: Generator(chamfer), scalars, id="nearest neighbours"),
        pytest.param(Knots, scalars, id="knots of a curve"),
        pytest.param(lambda: Knots(gaussian), scalars, id="radial basis"),
    ],
)
def test_differences(module, data):
    assert alarms(fit(module, data(), epochs=6)) == []
