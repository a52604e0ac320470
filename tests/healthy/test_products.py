"""Healthy losses that take the products of all with all on purpose."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit, regression

BATCH = 32
GRID = torch.linspace(-1.0, 1.0, BATCH)


def mlp(inputs=8, outputs=1):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def lines(n=1024):
    """Lines over a grid that has as many points as a batch has samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 8, generator=generator)
    y = x[:, :1] * GRID + torch.tanh(x[:, 1:2]) + 0.1 * torch.randn(n, BATCH, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)


class Step(Program):
    """A network with a training step of its own."""

    def __init__(self, step, outputs=1):
        super().__init__(
            mlp(outputs=outputs), optimizer=functools.partial(torch.optim.Adam, lr=2e-3)
        )
        self.step = step

    def training_step(self, batch, batch_idx):
        return self.step(self.net(batch[0]), *batch)


def curve(loss):
    def step(out, x, y):
        made = out[:, :1] * GRID + out[:, 1:]
        return loss(made, y) + 0.01 * made.mean()

    return step


def own(made, y):
    return (made - y).square().mean()


def weights_of_pairs(out, x, y):
    """RankNet: each pair of samples counts by the weights of both, (N, 1) times (N,)."""
    weight = 1.0 / (1.0 + y.abs())
    pairs = F.softplus(-(out - out.T) * torch.sign(y - y.T))
    weights = weight * weight.squeeze(1)
    return (weights * pairs).sum() / weights.sum()


def weight_of_rows(out, x, y):
    """A weight for each sample, (N, 1), on a loss of pairs, (N, N)."""
    wanted = y - y.T
    return (1.0 / (1.0 + y.abs()) * (out - out.T - wanted).square()).mean()


def outer_mask(out, x, y):
    """Distances of predictions follow those of targets where both are valid."""
    valid = (y < 1.5).float()
    mask = valid * valid.T
    return (mask * (out * out.T - y * y.T).square()).sum() / mask.sum()


def kernel_alignment(out, x, y):
    """Centred outer products of predictions and of targets."""
    made, wanted = out - out.mean(), y - y.mean()
    alignment = (made * made.squeeze(1) * (wanted * wanted.squeeze(1))).mean()
    return -alignment / (made.square().mean() * wanted.square().mean() + 1e-6)


def bilinear(out, x, y):
    """Which prediction belongs to which target, by a score of each pair."""
    scores = F.normalize(out, dim=0) * F.normalize(y.squeeze(1), dim=0) * len(out)
    return F.relu(1.0 + scores - scores.diagonal()[:, None]).mean()


def polynomial(left, right):
    return (1.0 + left * right).pow(2).mean()


def linear(left, right):
    return (left * right).mean()


def discrepancy(kernel):
    """Maximum mean discrepancy of predictions and targets, on top of an ordinary loss."""

    def step(out, x, y):
        itself = kernel(out, out.squeeze(1)) + kernel(y, y.squeeze(1))
        return F.mse_loss(out, y) + 0.1 * (itself - 2.0 * kernel(out, y.squeeze(1)))

    return step


def weighted_heads(out, x, y):
    """A weight for each sample, (N, 1), on the errors of three heads, (N, 3)."""
    return (1.0 / (1.0 + y.abs()) * (out - y).abs()).mean()


def advantages(out, x, y):
    policy = torch.distributions.Categorical(logits=out)
    action = policy.sample()
    reward = -(action[:, None] - 1.0 - y).square()
    return -(policy.log_prob(action)[:, None] * (reward - reward.mean())).mean()


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(lambda: Step(curve(F.mse_loss), 2), lines, id="lines over a grid"),
        pytest.param(lambda: Step(curve(own), 2), lines, id="lines over a grid, own loss"),
        pytest.param(lambda: Step(weights_of_pairs), regression, id="weights of pairs"),
        pytest.param(lambda: Step(weight_of_rows), regression, id="weight of rows"),
        pytest.param(lambda: Step(outer_mask), regression, id="outer mask"),
        pytest.param(lambda: Step(kernel_alignment), regression, id="kernel alignment"),
        pytest.param(lambda: Step(bilinear), regression, id="bilinear scores"),
        pytest.param(lambda: Step(discrepancy(polynomial)), regression, id="polynomial kernel"),
        pytest.param(lambda: Step(discrepancy(linear)), regression, id="linear kernel"),
        pytest.param(lambda: Step(weighted_heads, 3), regression, id="weighted heads"),
        pytest.param(lambda: Step(advantages, 3), regression, id="advantages"),
    ],
)
def test_products(module, data):
    assert alarms(fit(module, data(), epochs=4)) == []
