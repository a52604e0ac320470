"""Finite differences, and what they cannot tell."""

import math

import pytest
import torch

from lightning_debug.experiments.cuts import Cuts, rounds
from lightning_debug.experiments.differences import directions, relative, slope
from lightning_debug.experiments.replica import NotApplicableError

AT = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def measured(function, gradient, at=AT):
    def evaluate(values):
        return float(function(values[0]))

    (direction,) = directions([at], 1)
    return slope(evaluate, evaluate([at]), [at], [gradient], direction)


def test_a_right_gradient():
    assert measured(lambda x: x.pow(3).sum(), 3 * AT**2).error < 1e-7


def test_a_wrong_gradient():
    assert measured(lambda x: x.pow(3).sum(), AT**2).error == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: (x - AT).abs().sum(), id="a kink"),
        pytest.param(lambda x: (x > AT).double().sum(), id="a jump"),
        pytest.param(lambda x: x.float().pow(3).sum(), id="single precision"),
    ],
)
def test_nothing_is_said_where_there_is_no_derivative(function):
    assert math.isnan(measured(function, torch.zeros_like(AT)).error)


def test_rounding_is_no_difference():
    assert relative(1e-12, 2e-12, floor=1e-9) == 0.0
    assert relative(1.0, 1.1, floor=1e-9) == pytest.approx(0.1 / 1.1)


def test_directions_are_as_large_as_what_they_move():
    (small, large), _ = directions([1e-3 * torch.ones(100), 10.0 * torch.ones(100)], 2)
    assert small.square().mean().sqrt() == pytest.approx(1e-3, rel=0.3)
    assert large.square().mean().sqrt() == pytest.approx(10.0, rel=0.3)


def test_what_was_cut_off_keeps_its_value():
    def step(x):
        return x + (x.round() - x).detach() + x.sum().item() + x.argmax()

    cuts, x = Cuts(), AT.clone().requires_grad_()
    with cuts.recording():
        first = step(x)
    moved = (AT + 0.01).requires_grad_()
    with cuts.replaying():
        second = step(moved)
    assert torch.allclose(second - first, torch.full_like(AT, 0.01))


def test_what_is_frozen_for_a_part_of_the_step_keeps_its_value():
    def step(x):
        squares = x.pow(2).sum()
        x.requires_grad_(False)
        products = torch.stack([x, x]).prod()
        x.requires_grad = True
        return squares + products

    cuts, x = Cuts(), AT.clone().requires_grad_()
    with cuts.recording():
        first = step(x)
    with torch.no_grad():
        x += 0.01
    with cuts.replaying({id(x): AT}):
        second = step(x)
    assert x.requires_grad
    assert (second - first).item() == pytest.approx(((AT + 0.01) ** 2 - AT**2).sum().item())


def test_another_way_is_noticed():
    cuts, x = Cuts(), AT.clone().requires_grad_()
    with cuts.recording():
        x.detach()
    with cuts.replaying(), pytest.raises(NotApplicableError, match="another way"):
        x.argmax()


def test_values_written_behind_autograd_are_seen():
    x = torch.linspace(-1, 1, 32).requires_grad_()
    for edit, rounded in ((torch.sign, True), (torch.tanh, False)):
        cuts, h = Cuts(), x * 2.0
        with cuts.recording():
            h.data = edit(h.data)
        assert cuts.rounded is rounded


def test_rounding_leaves_few_values():
    x = torch.linspace(-1, 1, 64)
    assert rounds(x, (4 * x).round())
    assert not rounds(x, x.relu())
    assert not rounds(x, x.repeat(2))
