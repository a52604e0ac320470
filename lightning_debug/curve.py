"""Curves of losses: bounded memory, noise, trend. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean

POINTS = 256


class Curve:
    """The losses of a run, of bounded length.

    When it is full, neighbours are averaged, so each point stands for more and more losses.

    Args:
        points: Most points that are kept; even.
    """

    def __init__(self, points: int = POINTS) -> None:
        self._most = points
        self._points: list[tuple[int, float]] = []
        self._sum, self._count = 0.0, 0
        self._stride = 1
        self._last = -1

    def add(self, values: Iterable[tuple[int, float]]) -> None:
        """Take in losses by step; what is not newer than the last call, or not finite, is not."""
        new = [(step, v) for step, v in values if step > self._last and math.isfinite(v)]
        for step, value in new:
            self._sum, self._count = self._sum + value, self._count + 1
            if self._count == self._stride:
                self._points.append((step, self._sum / self._count))
                self._sum, self._count = 0.0, 0
            if len(self._points) >= self._most:
                pairs = zip(self._points[::2], self._points[1::2], strict=True)
                self._points = [(step, (a + b) / 2.0) for (_, a), (step, b) in pairs]
                self._stride *= 2
        if new:
            self._last = new[-1][0]

    @property
    def last_step(self) -> int:
        """Return the step of the newest loss; -1 before the first."""
        return self._last

    def values(self, start: float = -math.inf, end: float = math.inf) -> list[float]:
        """Return the losses of the steps in ``[start, end)``, oldest first."""
        return [value for step, value in self._points if start <= step < end]


def blocks(values: Sequence[float], count: int) -> list[float]:
    """Return the means of at most ``count`` consecutive blocks of nearly equal length."""
    count = min(count, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [fmean(values[a:b]) for a, b in pairwise(edges)]


def direction(values: Sequence[float]) -> float:
    """Return the Mann-Kendall score: standard errors by which rises outnumber falls.

    Below about -1.6 the values fall, above 1.6 they rise, whatever the shape of the curve or of
    its noise; 0 for fewer than four values.
    """
    n = len(values)
    if n < 4:
        return 0.0
    signs = sum(
        (later > earlier) - (later < earlier)
        for i, earlier in enumerate(values)
        for later in values[i + 1 :]
    )
    return signs / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


def jitter(values: Sequence[float]) -> float:
    """Return the standard deviation of a curve around itself: a straight line has none.

    From the median of the second differences, so neither a trend nor a single jump counts.
    """
    seconds = sorted(
        abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)
    )
    if not seconds:
        return 0.0
    return 1.4826 * seconds[len(seconds) // 2] / math.sqrt(6)


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Return Pearson's correlation; 0 where one of them does not vary."""
    if len(left) < 2:
        return 0.0
    mean_left, mean_right = fmean(left), fmean(right)
    covariance = sum((a - mean_left) * (b - mean_right) for a, b in zip(left, right, strict=True))
    size = math.sqrt(
        sum((a - mean_left) ** 2 for a in left) * sum((b - mean_right) ** 2 for b in right)
    )
    return covariance / size if size else 0.0
