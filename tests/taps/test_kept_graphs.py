"""Which graphs are still there, and what holds them."""

from collections import deque

import pytest
import torch
from torch import nn
from torchmetrics import CatMetric

from lightning_debug.observation import Holder
from lightning_debug.taps.kept_graphs import KeptGraphTap


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


def loss_of(model):
    return model(torch.ones(2, 4)).square().mean()


def run(model, keeps, steps=8):
    """Mark a graph in each of some steps, and return what was seen at the end."""
    tap = KeptGraphTap(model)
    for step in range(steps):
        tap.passes(step, 0)
        loss = loss_of(model)
        tap.before_backward(loss)
        loss.backward()
        keeps(loss)
    del loss
    [seen] = tap.rest(steps + 1, 1)
    assert seen.final
    assert seen.epoch == 0  # not the next one, which the trainer counts already
    return seen


def test_nothing_is_there_that_nobody_keeps(model):
    assert run(model, lambda loss: None).steps == ()


def test_what_is_kept_is_there_by_its_step_and_epoch(model):
    history = []
    assert run(model, history.append).steps == tuple((step, 0) for step in range(8))


def test_a_chain_of_graphs_is_there_though_no_tensor_is(model):
    mean = [0.0]
    seen = run(model, lambda loss: mean.append(0.9 * mean.pop() + 0.1 * loss))
    assert len(seen.steps) == 8


def test_a_graph_without_a_gradient_is_none(model):
    model.requires_grad_(False)
    tap = KeptGraphTap(model)
    tap.before_backward(loss_of(model))
    assert next(iter(tap.observations(9, 0))).steps == ()


def test_the_step_that_is_going_on_does_not_count(model):
    tap, loss = KeptGraphTap(model), loss_of(model)
    tap.passes(3, 0)
    tap.before_backward(loss)
    assert next(iter(tap.observations(4, 0))).steps == ()
    assert next(iter(tap.observations(5, 0))).steps == ((3, 0),)


def test_attributes_that_hold_tensors_with_a_graph_are_named(model):
    model[0].metric, model[0].recent = CatMetric(), deque(maxlen=9)
    model.history, model.numbers = {"losses": []}, []

    def keep(loss):
        model.history["losses"].append([loss])
        model[0].recent.append(loss)
        model[0].metric.update(loss)
        model.numbers.append(loss.detach())

    assert set(run(model, keep).holders) == {
        Holder(place="self.history", count=8),
        Holder(place="self.0.recent", count=8, bounded=True),
        Holder(place="self.0.metric.value", count=8, bounded=True),
    }


def test_the_marks_leave_weights_and_gradients_alone(model):
    tap = KeptGraphTap(model)
    loss = loss_of(model)
    tap.before_backward(loss)
    loss.backward()
    marked = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss_of(model).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), marked, strict=True))
    assert not any(p._backward_hooks for p in model.parameters())
