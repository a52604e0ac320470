"""Fewer numbers that still tell the same story: what keeps a report small for any run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_debug.report.rendering import number

DIGITS = 4
# Of a curve: it may differ little from step to step.
CURVE_DIGITS = 6
Point = list[float | None]
T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` items, evenly chosen, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int)]


def points(steps: ArrayLike, values: ArrayLike, most: int) -> list[Point]:
    """Return ``[step, value]`` pairs, at most ``most``, without losing a peak or a gap.

    Of many values the smallest and the largest of each stretch are kept, and the first that is no
    finite number, as None: JSON has none.
    """
    x, y = np.asarray(steps), np.asarray(values, dtype=np.float64)
    return [[int(x[i]), short(float(y[i]), CURVE_DIGITS)] for i in _telling(y, most)]


def short(value: float, digits: int = DIGITS) -> float | None:
    """Return a number with a few digits that count; None for what JSON lacks."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def said(value: float) -> str:
    """Return a number in a text, with a few digits that count."""
    return number(short(value) or 0.0)


def _telling(values: NDArray[Any], most: int) -> NDArray[Any]:
    """Return the indices of the values that are kept, in order."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    # First, last, and of each stretch the smallest, the largest and a gap.
    stretches = max(1, (most - 2) // 3)
    size = -(-count // stretches)
    padded = np.full(stretches * size, np.nan)
    padded[:count] = np.where(np.isfinite(values), values, np.nan)
    rows = padded.reshape(stretches, size)
    starts = np.arange(stretches) * size
    low = starts + np.where(np.isnan(rows), np.inf, rows).argmin(axis=1)
    high = starts + np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1)
    gap = starts + np.isnan(rows).argmax(axis=1)
    kept = np.unique(np.concatenate([low, high, gap, [0, count - 1]]))
    return kept[kept < count]
