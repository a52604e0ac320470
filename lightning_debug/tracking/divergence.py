"""Where two runs part: the first step at which their numbers differ, and differ beyond noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_debug.look import Look

Numbers = npt.NDArray[np.float64]

# Relative differences that an order of summation makes, and that four written digits leave.
ROUNDING = 1e-5
ROUNDING_OF_LAYERS = 2e-3
# Standard errors of a smoothed curve.
BEYOND = 4.0
FEWEST_TO_SMOOTH = 12
MOST_POINTS = 400
MOST_LOSSES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The losses of one run, in few enough points to be drawn.

    Attributes:
        steps, values: The points; each is the mean of its stretch of the run.
        length: Number of steps that have a loss.
        last: Mean of the last tenth of them; NaN without any.
    """

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    length: int = 0
    last: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Parting:
    """Where the losses of two runs part.

    Attributes:
        curves: The losses of both.
        compared: Number of steps that both have.
        first: First step at which they differ by more than rounding; None for none.
        clear: First step from which they differ by more than the scatter of both; None for none.
    """

    curves: tuple[Curve, Curve] = (Curve(), Curve())
    compared: int = 0
    first: int | None = None
    clear: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayerParting:
    """The first look at which a number of a layer differs.

    Attributes:
        step: Where in the run.
        metric, layer: Which number; of several at one step the one that differs most.
        values: Its values in both runs.
        others: How many other numbers differ at that step.
    """

    step: int
    metric: str
    layer: str
    values: tuple[float, float]
    others: int = 0


@dataclass
class _Series:
    """One loss a step, in order."""

    steps: Numbers
    values: Numbers = field(default_factory=lambda: np.empty(0))


def losses(a: Iterable[tuple[int, float]], b: Iterable[tuple[int, float]]) -> Parting:
    """Compare the losses of two runs, step by step."""
    first, second = _series(a), _series(b)
    common, at_a, at_b = np.intersect1d(first.steps, second.steps, return_indices=True)
    x, y = first.values[at_a], second.values[at_b]
    differ = np.flatnonzero(_differs(x, y, ROUNDING))
    clear = beyond_noise(x, y)
    return Parting(
        curves=(_curve(first), _curve(second)),
        compared=len(common),
        first=int(common[differ[0]]) if len(differ) else None,
        clear=int(common[clear]) if clear is not None else None,
    )


def layers(a: Sequence[Look], b: Sequence[Look], *, noisy: bool = False) -> LayerParting | None:
    """Return the first look at which a number of a layer differs; None where none does.

    Args:
        a: The looks of one run.
        b: The looks of the other.
        noisy: Whether to ask for a difference beyond the scatter of both, and not only beyond
            rounding.
    """
    mine = {look.step: look.layers for look in a if look.layers}
    theirs = {look.step: look.layers for look in b if look.layers}
    steps = sorted(mine.keys() & theirs.keys())
    if noisy:
        return _first_clear(steps, mine, theirs)
    for step in steps:
        apart = [
            _Apart(_distance(x, y), step, metric, layer, (x, y))
            for metric, layer, x, y in _pairs(mine[step], theirs[step])
            if _differs(np.array([x]), np.array([y]), ROUNDING_OF_LAYERS)[0]
        ]
        if apart:
            return _most_apart(apart)
    return None


def beyond_noise(a: Numbers, b: Numbers) -> int | None:
    """Return the index from which two curves differ by more than their scatter; None for none.

    The scatter of each is measured about its own moving mean. The difference of the means must be
    larger than four standard errors of it for longer than one spike could make it; a curve that is
    not finite where the other one is differs at once.
    """
    finite = np.isfinite(a) & np.isfinite(b)
    torn = np.flatnonzero(np.isfinite(a) != np.isfinite(b))
    first_torn = int(torn[0]) if len(torn) else None
    x, y = a[finite], b[finite]
    if len(x) < FEWEST_TO_SMOOTH:
        return first_torn
    width = max(5, len(x) // 20)
    smooth_x, smooth_y = _smooth(x, width), _smooth(y, width)
    error = math.sqrt((_scatter(x - smooth_x) ** 2 + _scatter(y - smooth_y) ** 2) / width)
    apart = (np.abs(smooth_x - smooth_y) > BEYOND * error) & _differs(x, y, ROUNDING)
    # One spike draws the mean along for as long as the mean is taken over.
    start = _stays(apart, width + width // 2)
    found = None if start is None else int(np.flatnonzero(finite)[start])
    known = [index for index in (found, first_torn) if index is not None]
    return min(known, default=None)


def _series(losses: Iterable[tuple[int, float]]) -> _Series:
    """Return one loss a step: the mean of those that several batches of it had."""
    pairs = np.array(
        [pair for pair, _ in zip(losses, range(MOST_LOSSES), strict=False)], dtype=float
    )
    if not len(pairs):
        return _Series(np.empty(0))
    steps, where, counts = np.unique(pairs[:, 0], return_inverse=True, return_counts=True)
    return _Series(steps, np.bincount(where, weights=pairs[:, 1]) / counts)


def _curve(series: _Series) -> Curve:
    """Return a curve of a few hundred points."""
    length = len(series.values)
    if not length:
        return Curve()
    width = -(-length // MOST_POINTS)
    starts = np.arange(0, length, width)
    sums = np.add.reduceat(series.values, starts)
    values = sums / np.diff([*starts, length])
    return Curve(
        steps=tuple(int(step) for step in series.steps[starts]),
        values=tuple(float(value) for value in values),
        length=length,
        last=float(series.values[-max(1, length // 10) :].mean()),
    )


def _differs(a: Numbers, b: Numbers, tolerance: float) -> npt.NDArray[np.bool_]:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b))
    result: npt.NDArray[np.bool_] = ~(same | near)
    return result


def _smooth(values: Numbers, width: int) -> Numbers:
    """Return moving means; at the ends over what there is."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centres = np.arange(len(values))
    starts = np.maximum(0, centres - width // 2)
    ends = np.minimum(len(values), centres + width - width // 2)
    means: Numbers = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _scatter(residuals: Numbers) -> float:
    """Return the standard deviation of residuals, whatever a few outliers do."""
    return 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))


def _stays(apart: npt.NDArray[np.bool_], width: int) -> int | None:
    """Return where the first stretch of ``width`` begins that is apart throughout."""
    counts = np.concatenate([[0], np.cumsum(apart)])
    starts = np.flatnonzero(counts[width:] - counts[:-width] == width)
    return int(starts[0]) if len(starts) else None


@dataclass(frozen=True)
class _Apart:
    distance: float
    step: int
    metric: str
    layer: str
    values: tuple[float, float]


def _most_apart(found: Sequence[_Apart]) -> LayerParting:
    most = max(found, key=lambda apart: apart.distance)
    return LayerParting(
        step=most.step,
        metric=most.metric,
        layer=most.layer,
        values=most.values,
        others=len(found) - 1,
    )


def _first_clear(
    steps: Sequence[int], mine: Mapping[int, Any], theirs: Mapping[int, Any]
) -> LayerParting | None:
    """Return the first number of a layer that differs by more than its scatter."""
    series: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for step in steps:
        for metric, layer, mine_now, theirs_now in _pairs(mine[step], theirs[step]):
            series.setdefault((metric, layer), []).append((step, mine_now, theirs_now))
    found: list[_Apart] = []
    for (metric, layer), points in series.items():
        at, x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        # Of sizes, which span decades, factors count.
        positive = bool((x > 0).all() and (y > 0).all())
        start = beyond_noise(np.log(x), np.log(y)) if positive else beyond_noise(x, y)
        if start is not None:
            values = float(x[start]), float(y[start])
            found.append(_Apart(_distance(*values), int(at[start]), metric, layer, values))
    first = min((apart.step for apart in found), default=0)
    return _most_apart([apart for apart in found if apart.step == first]) if found else None


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[tuple[str, str, float, float]]:
    for metric in a.keys() & b.keys():
        for layer in a[metric].keys() & b[metric].keys():
            yield metric, layer, a[metric][layer], b[metric][layer]


def _distance(a: float, b: float) -> float:
    """Return how far apart two numbers are, relative to their size."""
    size = max(abs(a), abs(b))
    return abs(a - b) / size if math.isfinite(size) and size > 0 else math.inf
