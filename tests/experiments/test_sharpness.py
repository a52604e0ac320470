import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

import lightning_debug
from lightning_debug import sharpness

CURVES = torch.tensor([1.0, 3.0, 0.5, 12.0])


class Quadratic(pl.LightningModule):
    def __init__(self, sign=1.0):
        super().__init__()
        self.point = nn.Parameter(torch.ones(4))
        self.sign = sign

    def training_step(self, batch, batch_idx):
        return self.sign * 0.5 * (CURVES * self.point.square()).sum() + 0.0 * batch.sum()


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self.net(x), y)
        self.log("loss", loss)
        return loss


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Linear(Net):
    def training_step(self, batch, batch_idx):
        return self.net[3].weight.sum()


class Adversaries(Net):
    def training_step(self, batch, batch_idx):
        for _ in range(2):
            self.manual_backward(super().training_step(batch, batch_idx))


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(16, 3), torch.randn(16, 1)


def exact(model, batch):
    """Return the eigenvalue of the largest magnitude of the whole Hessian."""
    twin = copy.deepcopy(model).double().eval()
    x, y = (t.double() for t in batch)
    names, values = zip(*twin.named_parameters(), strict=True)
    sizes = [v.numel() for v in values]

    def loss(flat):
        parts = flat.split(sizes)
        weights = {n: p.view_as(v) for n, p, v in zip(names, parts, values, strict=True)}
        return F.mse_loss(
            torch.func.functional_call(twin.net, {k[4:]: w for k, w in weights.items()}, (x,)), y
        )

    flat = torch.cat([v.detach().flatten() for v in values])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    return float(eigenvalues[eigenvalues.abs().argmax()])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_quadratic(sign):
    found = sharpness(Quadratic(sign), torch.zeros(1), power_iterations=40)
    assert found.largest == pytest.approx(12.0 * sign, rel=1e-6)
    assert found.loss == pytest.approx(8.25 * sign)
    assert found.relative == pytest.approx(sign * 100 * 0.5 * 12.0 * 4e-6 / 9.25)
    assert found.stable_lr == (pytest.approx(2 / 12) if sign > 0 else float("inf"))
    assert found.change < 1e-6


def test_a_small_net(batch):
    torch.manual_seed(1)
    model = Net()
    found = sharpness(model, batch, power_iterations=100)
    assert found.largest == pytest.approx(exact(model, batch), rel=1e-3)


def test_manual_optimization(batch):
    torch.manual_seed(1)
    model = Manual()
    optimizers = [optim.SGD(model.parameters(), lr=0.1)]
    found = sharpness(model, batch, power_iterations=100, optimizers=optimizers)
    assert found.largest == pytest.approx(exact(model, batch), rel=1e-3)


def test_a_loss_that_does_not_bend(batch):
    found = sharpness(Linear(), batch)
    assert (found.largest, found.relative, found.stable_lr) == (0.0, 0.0, float("inf"))


def test_leaves_no_trace(batch):
    model = Net().train()
    model.net[0].weight.grad = torch.ones(5, 3)
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    assert sharpness(model, batch) == sharpness(model, batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model.net[0].weight.grad, torch.ones(5, 3))
    assert model.net[3].weight.grad is None
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "batch", "options", "error", "reason"),
    [
        (nn.Linear(3, 1), torch.zeros(1), {}, TypeError, "has no training_step"),
        (Net(), ["a", "b"], {}, TypeError, "holds no tensors"),
        (Net(), torch.zeros(1), {"power_iterations": 0}, ValueError, "at least 1"),
        (Net(), torch.zeros(1), {"power_iterations": 2.5}, ValueError, "whole number"),
        (Net(), torch.zeros(1), {}, ValueError, "fails on a copy"),
        (Adversaries(), (torch.ones(4, 3), torch.ones(4, 1)), {}, ValueError, "several losses"),
    ],
)
def test_bad_input(model, batch, options, error, reason):
    with pytest.raises(error, match=reason):
        sharpness(model, batch, **options)


def test_is_public():
    assert "sharpness" in lightning_debug.__all__
