"""The maps of layers by steps."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_debug.layers import METRICS
from lightning_debug.look import Look
from lightning_debug.report.rendering import clean
from lightning_debug.report.thinning import evenly, said
from lightning_debug.stored_run import StoredRun

MOST_ROWS = 160
MOST_COLUMNS = 160
MOST_NAME = 80
DECADES = 1.0
TINY = 1e-30  # zero has no logarithm
# A cell is one of 65 536 levels: four bytes of text instead of a number with its digits.
MISSING, ZERO, LOWEST, HIGHEST, NOT_FINITE = 0, 1, 2, 65_534, 65_535

SHARES = {"dead-share"}  # from 0 to 1, whatever was measured
TITLES = {
    "gradient-norm": "Gradient norm",
    "update-ratio": "Update ratio",
    "activation-rms": "Size of activations",
    "activation-spread": "Spread of activations",
    "dead-share": "Dead ReLU units",
}


@dataclass(frozen=True, kw_only=True)
class Map:
    """A number for each layer and step.

    Attributes:
        id: Name of the metric.
        title, unit: What is shown, in words.
        layers: Names of the rows, in order of execution.
        steps: First step of each column.
        rows: Levels of the cells of each layer: 16-bit numbers in base64.
        low, high: The numbers at the lowest and the highest level.
        log: Whether levels are evenly spaced in the logarithm.
        text: What is to be seen, for those who cannot see it.
    """

    id: str
    title: str
    unit: str
    layers: list[str]
    steps: list[int]
    rows: list[str]
    low: float
    high: float
    log: bool
    text: str

    def as_data(self) -> dict[str, Any]:
        """Return what the scripts draw it from."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def maps(run: StoredRun) -> list[Map]:
    """Return a map for each metric that was measured."""
    places = {place for finding in run.findings for place in (*finding.places, finding.where)}
    named = places | {place.rpartition(".")[0] for place in places}  # of a weight, the layer
    drawn = (_map(run.stats, metric, named) for metric in METRICS)
    return [each for each in drawn if each]


def _map(looks: Sequence[Look], metric: str, named: set[str]) -> Map | None:
    measured = [look for look in looks if look.layers.get(metric)]
    names = list(dict.fromkeys(name for look in measured for name in look.layers[metric]))
    if not names:
        return None
    shown = _chosen(names, named)
    index = {name: row for row, name in enumerate(shown)}
    values = np.full((len(shown), len(measured)), np.nan)
    known = np.zeros(values.shape, dtype=bool)
    for column, look in enumerate(measured):
        for name, value in look.layers[metric].items():
            if (row := index.get(name)) is not None:
                values[row, column] = value
                known[row, column] = True
    notes = _last(shown, values, known, measured[-1].step)
    values, known, together = _columns(values, known)
    if together > 1:
        notes += f" A column is the most unusual of {together} looks."
    if len(shown) < len(names):
        notes += f" Of {len(names)} layers, {len(shown)} are drawn: those of findings, and others"
        notes += " evenly chosen."
    low, high, log = (0.0, 1.0, False) if metric in SHARES else _range(values)
    levels = _levels(values, known, low, high, log)
    return Map(
        id=metric,
        title=TITLES[metric],
        unit=METRICS[metric],
        layers=[clean(name, MOST_NAME) for name in shown],
        steps=[look.step for look in measured[::together]],
        rows=[base64.b64encode(row.tobytes()).decode("ascii") for row in levels],
        low=low,
        high=high,
        log=log,
        text=notes,
    )


def _chosen(names: list[str], named: set[str]) -> list[str]:
    """Return the layers that are drawn: those that findings name, others evenly chosen."""
    if len(names) <= MOST_ROWS:
        return names
    told = evenly([name for name in names if name in named], MOST_ROWS // 2)
    others = evenly([n for n in names if n not in set(told)], MOST_ROWS - len(told))
    kept = {*told, *others}
    return [name for name in names if name in kept]


def _columns(values: NDArray[Any], known: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Put neighbouring looks into one column: each shows the value farthest from the usual."""
    rows, count = len(values), values.shape[1]
    together = -(-count // MOST_COLUMNS)
    columns = -(-count // together)
    missing = columns * together - count
    values = np.pad(values, ((0, 0), (0, missing)), constant_values=np.nan)
    known = np.pad(known, ((0, 0), (0, missing)))
    if together == 1:
        return values, known, 1
    finite = known & np.isfinite(values)
    size = np.log(np.where(finite, np.abs(values), 0.0) + TINY)
    usual = np.array(
        [np.median(row[ok]) if ok.any() else 0.0 for row, ok in zip(size, finite, strict=True)]
    )
    # What was not finite is the most unusual; what was not measured, the least.
    unusual = np.where(finite, np.abs(size - usual[:, None]), np.where(known, np.inf, -1.0))
    shape = (rows, columns, together)
    best = unusual.reshape(shape).argmax(axis=2)[..., None]
    picked = np.take_along_axis(values.reshape(shape), best, axis=2)[..., 0]
    seen = np.asarray(known.reshape(shape).any(axis=2))
    return picked, seen, together


def _range(values: NDArray[Any]) -> tuple[float, float, bool]:
    """Return the lowest and the highest number, and whether they span decades."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if len(positive) and finite.min() >= 0 and _decades(positive) > DECADES:
        return float(positive.min()), float(positive.max()), True
    if not len(finite):
        return 0.0, 0.0, False
    return float(finite.min()), float(finite.max()), False


def _decades(positive: NDArray[Any]) -> float:
    return math.log10(positive.max()) - math.log10(positive.min())


def _levels(
    values: NDArray[Any], known: NDArray[Any], low: float, high: float, log: bool
) -> NDArray[np.uint16]:
    finite = np.isfinite(values)
    zero = finite & (values == 0) if log else np.zeros(values.shape, dtype=bool)
    place = np.clip(np.where(finite & ~zero, values, low), low, high)
    if log:
        place, low, high = np.log(place), math.log(low), math.log(high)
    # Halved: the largest numbers must not overflow when they are taken from each other.
    width = high / 2 - low / 2
    share = (place / 2 - low / 2) / width if width > 0 else np.zeros(values.shape)
    levels = (LOWEST + share * (HIGHEST - LOWEST)).round().astype("<u2")
    levels[zero] = ZERO
    levels[known & ~finite] = NOT_FINITE
    levels[~known] = MISSING
    return levels


def _last(names: list[str], values: NDArray[Any], known: NDArray[Any], step: int) -> str:
    """Say which layers have the largest and the smallest number at the end."""
    broken = int((known & ~np.isfinite(values)).any(axis=1).sum())
    text = f"{len(names)} layers, {values.shape[1]} looks"
    text += f"; {broken} of the layers had a number that is NaN or infinite." if broken else "."
    column = values[:, -1]
    finite = np.flatnonzero(np.isfinite(column))
    if not len(finite):
        return text
    low, high = finite[column[finite].argmin()], finite[column[finite].argmax()]
    return (
        f"At step {step} the largest is {clean(names[high], MOST_NAME)}"
        f" ({said(column[high])}), the smallest"
        f" {clean(names[low], MOST_NAME)} ({said(column[low])}). {text}"
    )
