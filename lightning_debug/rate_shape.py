"""The shape of a schedule: a sequence of learning rates, one after each call. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

SAME = 1e-9
LOW = 0.3
BACK = 0.8
SMALLEST = 1e-300


def settles(rates: Sequence[float]) -> int:
    """Return the number of calls after which the rate does not change; -1 if it goes on."""
    if len(rates) < 3:
        return -1
    # Relative to the rate itself: an exponential decay goes on however small it has become.
    moved = (i for i in range(len(rates) - 1, 0, -1) if _differ(rates[i], rates[i - 1]))
    last = next(moved, 0)
    # Until there are no smaller numbers: that is not where it was meant to end.
    if 0.0 < abs(rates[last - 1]) < SMALLEST:
        return -1
    return last if last < len(rates) - 2 else -1


def low(rates: Sequence[float]) -> int:
    """Return the number of calls to the first low after the first peak; -1 if there is none.

    A low is where the rate has fallen to less than a third of the peak and begins to rise.
    """
    top = _first_peak(rates)
    size = max(map(abs, rates), default=0.0)
    for index in range(top + 1, len(rates) - 1) if top >= 0 else ():
        if rates[index] <= LOW * size and rates[index + 1] > rates[index] + SAME * size:
            return index
    return -1


def rises_again(rates: Sequence[float]) -> int:
    """Return the low after which a rate climbs back gradually to near its peak; -1 if it does not.

    A restart jumps, and a cycle rises as fast as it rose the first time: both are meant.
    """
    index = low(rates)
    if index < 0:
        return -1
    top, size = _first_peak(rates), max(rates)
    later = (i for i in range(index + 1, len(rates)) if rates[i] >= BACK * size)
    back = next(later, -1)
    fall, rise = index - top, back - index
    gradual = rise >= 2 and 2 * rise >= fall
    return index if back > 0 and gradual and rise > 1.5 * top + 1 else -1


def stays_below(rates: Sequence[float], share: float) -> int:
    """Return the calls after which the rate stays below a share of its peak; -1 if never."""
    limit = share * max(rates, default=0.0)
    if not rates or rates[-1] > limit:
        return -1
    return next((i + 1 for i in range(len(rates) - 1, -1, -1) if rates[i] > limit), -1)


def changes(rates: Sequence[float]) -> int:
    """Return how many calls changed the rate."""
    return sum(_differ(a, b) for a, b in pairwise(rates))


def peak(rates: Sequence[float]) -> int:
    """Return the number of calls after which the rate is largest for the first time."""
    top = max(rates) if rates else 0.0
    return next((i for i, rate in enumerate(rates) if rate >= top * (1 - 1e-6)), 0)


def _first_peak(rates: Sequence[float]) -> int:
    """Return the number of calls after which the rate first falls from a high; -1 for never."""
    size = max(map(abs, rates), default=0.0)
    for index in range(len(rates) - 1):
        if rates[index] >= BACK * size and rates[index + 1] < rates[index] - SAME * size:
            return index
    return -1


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > SAME * max(abs(one), abs(other))
