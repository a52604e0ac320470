"""Curves: bounded, and judged by signs and not by looks."""

import math
import random

import pytest

from lightning_debug.curve import Curve, blocks, correlation, direction, jitter


def test_a_curve_is_bounded_and_keeps_its_level() -> None:
    curve = Curve(points=100)
    for step in range(0, 100_000, 100):
        curve.add((s, 2.0) for s in range(step, step + 100))
    assert len(curve.values()) <= 100
    assert set(curve.values()) == {2.0}
    assert curve.last_step == 99_999


def test_what_was_seen_is_not_taken_twice() -> None:
    curve = Curve()
    curve.add([(0, 1.0), (1, 2.0)])
    curve.add([(1, 2.0), (2, math.nan), (2, 3.0), (2, 4.0)])
    assert curve.values() == [1.0, 2.0, 3.0, 4.0]
    assert curve.values(1, 2) == [2.0]


def test_blocks() -> None:
    assert blocks([1, 2, 3, 4, 5], 2) == [1.5, 4.0]
    assert blocks([1, 2], 5) == [1, 2]
    assert blocks([], 5) == []


@pytest.mark.parametrize("seed", range(5))
def test_direction(seed: int) -> None:
    noise = random.Random(seed)
    flat = [noise.gauss(0, 1) for _ in range(20)]
    assert abs(direction(flat)) < 3.0
    assert direction([v + 0.5 * i for i, v in enumerate(flat)]) > 3.0
    assert direction([v - 0.5 * i for i, v in enumerate(flat)]) < -3.0
    assert direction(flat[:3]) == 0.0


def test_jitter() -> None:
    assert jitter([0.1 * i for i in range(10)]) == pytest.approx(0.0, abs=1e-12)
    assert jitter([1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]) == 0.0
    assert jitter([1.0]) == 0.0
    noise = random.Random(0)
    assert 0.6 < jitter([noise.gauss(0, 1) for _ in range(500)]) < 1.4


def test_correlation() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert correlation([1, 1, 1], [3, 2, 1]) == 0.0
    assert correlation([1], [1]) == 0.0
