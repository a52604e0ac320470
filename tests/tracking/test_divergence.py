"""Where two runs part."""

import math

import numpy as np
import pytest

from lightning_debug.look import Look
from lightning_debug.tracking import divergence


def noisy(seed, *, n=400, shift=0.0, start=0, scale=0.1):
    """A falling loss with noise, which lies higher from a step on."""
    steps = np.arange(n)
    values = 1.0 + np.exp(-steps / 50) + scale * np.random.default_rng(seed).normal(size=n)
    return [(int(s), float(v + shift * (s >= start))) for s, v in zip(steps, values, strict=True)]


def look(step, **layers):
    return Look(step=step, epoch=0, layers={"gradient-norm": layers})


def test_the_same_losses_do_not_part():
    parting = divergence.losses(noisy(0), noisy(0))
    assert (parting.compared, parting.first, parting.clear) == (400, None, None)


def test_rounding_is_no_difference():
    parting = divergence.losses(noisy(0), [(s, v * (1 + 1e-7)) for s, v in noisy(0)])
    assert parting.first is None


def test_the_first_step_that_differs():
    other = [(s, v + 0.001 * (s >= 7)) for s, v in noisy(0)]
    parting = divergence.losses(noisy(0), other)
    assert (parting.first, parting.clear) == (7, None)


@pytest.mark.parametrize("seed", range(1, 9))
def test_another_seed_stays_within_noise(seed):
    parting = divergence.losses(noisy(0), noisy(seed))
    assert (parting.first, parting.clear) == (0, None)


@pytest.mark.parametrize("seed", range(1, 5))
def test_beyond_noise_from_where_it_is(seed):
    parting = divergence.losses(noisy(0), noisy(seed, shift=0.3, start=200))
    assert 180 <= parting.clear <= 210


def test_one_spike_is_no_parting_beyond_noise():
    other = [(s, v + 5.0 * (s == 100)) for s, v in noisy(1, scale=0.01)]
    assert divergence.losses(noisy(0, scale=0.01), other).clear is None


def test_a_loss_that_is_no_number_parts_at_once():
    other = [(s, math.nan if s >= 50 else v) for s, v in noisy(0)]
    parting = divergence.losses(noisy(0), other)
    assert (parting.first, parting.clear) == (50, 50)
    both = divergence.losses(other, other)
    assert (both.first, both.clear) == (None, None)


def test_only_steps_that_both_have_are_compared():
    parting = divergence.losses(noisy(0, n=100), noisy(0, n=50)[10:])
    assert (parting.compared, parting.first) == (40, None)
    assert [curve.length for curve in parting.curves] == [100, 40]


def test_several_batches_of_one_step_are_one_loss():
    parting = divergence.losses([(0, 1.0), (0, 3.0)], [(0, 2.0)])
    assert (parting.compared, parting.first) == (1, None)


@pytest.mark.parametrize("losses", [[], [(0, 1.0)], [(0, math.inf)]])
def test_next_to_nothing_to_compare(losses):
    parting = divergence.losses(losses, noisy(0))
    assert parting.compared == len(losses)
    assert divergence.losses([], []).compared == 0


def test_a_long_curve_is_drawn_with_few_points():
    curve = divergence.losses([(s, float(s)) for s in range(10_001)], []).curves[0]
    assert len(curve.steps) == len(curve.values) <= divergence.MOST_POINTS
    assert curve.values[0] == pytest.approx(sum(range(26)) / 26)
    assert curve.length == 10_001


def test_the_first_layer_that_differs():
    a = [look(0, first=1.0, second=2.0), look(1, first=1.0, second=2.0)]
    b = [look(0, first=1.0004, second=2.0), look(1, first=1.1, second=4.0)]
    found = divergence.layers(a, b)
    assert (found.step, found.layer, found.values, found.others) == (1, "second", (2.0, 4.0), 1)
    assert found.metric == "gradient-norm"
    assert divergence.layers(a, a) is None


def test_layers_that_only_one_run_has_are_not_compared():
    assert divergence.layers([look(0, a=1.0)], [look(0, b=2.0)]) is None
    assert divergence.layers([look(0, a=1.0)], [look(1, a=2.0)]) is None
    assert divergence.layers([], []) is None


def test_a_layer_beyond_its_noise():
    rng = np.random.default_rng(0)
    a = [look(s, still=rng.lognormal(), shifted=rng.lognormal(0, 0.1)) for s in range(60)]
    b = [
        look(s, still=rng.lognormal(), shifted=rng.lognormal(2.0 * (s >= 30), 0.1))
        for s in range(60)
    ]
    assert divergence.layers(a, b).step == 0
    found = divergence.layers(a, b, noisy=True)
    assert found.layer == "shifted"
    assert 26 <= found.step <= 32
