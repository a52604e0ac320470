"""What a glance measures is what happened, in plain numbers."""

import math

import pytest
import torch
from torch import nn

from lightning_debug.taps.glances import GlanceTap
from lightning_debug.taps.wiring import Wiring


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4)
        self.frozen = nn.Linear(4, 4)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.frozen.requires_grad_(False)

    def forward(self, ids):
        return self.second(self.first(self.frozen(self.table(ids))).relu())


def start(optimizer=torch.optim.SGD, **settings):
    torch.manual_seed(0)
    model = Network()
    made = optimizer([p for p in model.parameters() if p.requires_grad], **({"lr": 0.1} | settings))
    tap = GlanceTap(Wiring(model, [made]))
    tap.begin()
    return model, made, tap


def backward(model):
    loss = model(torch.tensor([1, 2, 3, 1])).square().mean()
    loss.backward()
    return loss


def test_measures_gradients_and_the_true_change_of_weights():
    model, optimizer, tap = start(momentum=0.9)
    loss = backward(model)
    norms = {n: p.grad.norm() for n, p in model.named_parameters() if p.grad is not None}
    tap.before_step(optimizer)
    optimizer.step()
    tap.end(loss)
    [glance] = tap.observations(7, 1)
    assert (glance.step, glance.epoch, glance.optimizer) == (7, 1, "SGD")
    assert glance.gradients == pytest.approx({n: float(v) for n, v in norms.items()})
    assert not any(name.startswith("frozen") for name in glance.gradients)
    assert (glance.lr, glance.loss) == (0.1, pytest.approx(loss.item()))
    weight, gradient = model.first.weight, model.first.weight.grad
    changed = gradient[gradient != 0]  # that of dead units is zero
    before = weight.detach() + 0.1 * gradient
    ratio = 0.1 * changed.square().mean().sqrt() / before.square().mean().sqrt()
    assert glance.ratios["first.weight"] == pytest.approx(float(ratio), rel=1e-4)
    assert set(glance.ratios) == {"table.weight", "first.weight", "second.weight"}


def test_rows_of_a_table_that_rest_do_not_make_its_update_smaller():
    model, optimizer, tap = start()
    backward(model)
    before = model.table.weight.detach().clone()
    tap.before_step(optimizer)
    optimizer.step()
    tap.end(None)
    [glance] = tap.observations(0, 0)
    moved = (model.table.weight - before)[1:4]
    expected = moved.square().mean().sqrt() / before.square().mean().sqrt()
    assert glance.ratios["table.weight"] == pytest.approx(float(expected), rel=1e-4)
    assert math.isnan(glance.loss)


def test_a_closure_that_runs_again_has_no_single_update():
    model, optimizer, tap = start(torch.optim.LBFGS)

    def closure():
        optimizer.zero_grad()
        loss = backward(model)
        tap.before_step(optimizer)
        return loss

    tap.end(optimizer.step(closure))
    [glance] = tap.observations(0, 0)
    assert glance.gradients
    assert not glance.ratios


def test_weights_that_are_replaced_during_the_step_are_not_compared():
    model, optimizer, tap = start()
    backward(model)
    tap.before_step(optimizer)
    model.first.weight.data = torch.zeros(3)
    tap.end(None)
    [glance] = tap.observations(0, 0)
    assert not glance.ratios


def test_nothing_to_see():
    _, optimizer, tap = start()
    tap.before_step(optimizer)
    assert tap.fruitless
    tap.end(None)
    assert not list(tap.observations(0, 0))


def test_formats_may_differ_and_small_changes_count():
    model, optimizer, tap = start(lr=1e-9)
    model.first.double()
    loss = model.second(model.first(model.table(torch.tensor([1, 2])).double()).float()).mean()
    loss.backward()
    tap.before_step(optimizer)
    optimizer.step()
    tap.end(loss)
    [glance] = tap.observations(0, 0)
    assert 0.0 < glance.ratios["first.weight"] < 1e-8
    assert glance.ratios["second.weight"] == 0.0
