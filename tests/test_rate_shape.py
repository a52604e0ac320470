"""What the shape of a schedule tells."""

import pytest

from lightning_debug import rate_shape as shape
from tests.build_schedules import (
    cosine,
    cycles,
    exponential,
    linear,
    milestones,
    restarts,
    steps,
    warm,
    warm_cosine,
)


@pytest.mark.parametrize(
    ("rates", "calls"),
    [
        pytest.param(linear(40), 40, id="linear"),
        pytest.param(warm(40), 39, id="warm-up"),
        pytest.param(milestones(10, 30), 30, id="milestones"),
        pytest.param(exponential(0.99), -1, id="exponential"),
        pytest.param(exponential(0.5, 500), -1, id="exponential far down"),
        pytest.param(exponential(0.5), -1, id="exponential to where numbers end"),
        pytest.param(exponential(0.9, 9000), -1, id="exponential to the smallest number"),
        pytest.param(steps(5), -1, id="steps to where numbers end"),
        pytest.param(cosine(40), -1, id="cosine"),
        pytest.param((1.0, 1.0, 1.0, 1.0), 0, id="constant"),
        pytest.param((1.0,), -1, id="one call"),
        pytest.param((), -1, id="none"),
    ],
)
def test_settles(rates, calls):
    assert shape.settles(rates) == calls


@pytest.mark.parametrize(
    ("rates", "low", "again"),
    [
        pytest.param(cosine(40), 40, 40, id="cosine"),
        pytest.param(cosine(40, 60), 40, -1, id="cosine that has only begun to rise"),
        pytest.param(warm_cosine(10, 60), 60, 60, id="cosine after a warm-up"),
        pytest.param(restarts(40), 39, -1, id="restarts"),
        pytest.param(cycles(20), 40, -1, id="cycles"),
        pytest.param(warm(40), -1, -1, id="warm-up"),
        pytest.param(linear(40), -1, -1, id="linear"),
        pytest.param((), -1, -1, id="none"),
    ],
)
def test_low_and_rises_again(rates, low, again):
    assert shape.low(rates) == low
    assert shape.rises_again(rates) == again


@pytest.mark.parametrize(
    ("rates", "calls"),
    [
        pytest.param(exponential(0.5, 100), 7, id="exponential"),
        pytest.param(steps(10, 0.1, 100), 20, id="steps"),
        pytest.param(warm(10, 100), -1, id="warm-up"),
        pytest.param((), -1, id="none"),
    ],
)
def test_stays_below(rates, calls):
    assert shape.stays_below(rates, 0.0101) == calls


def test_peak_and_changes():
    assert shape.peak(warm_cosine(10, 60, 100)) == 10
    assert shape.changes(steps(10, calls=35)) == 3
    assert shape.peak(()) == shape.changes(()) == 0
