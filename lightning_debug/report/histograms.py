"""The histograms of weights, gradients and activations at chosen steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightning_debug.picture import Histogram
from lightning_debug.report.rendering import clean
from lightning_debug.report.thinning import evenly, said, short
from lightning_debug.stored_run import StoredRun

MOST_TENSORS = 60
MOST_STEPS = 12
MOST_BINS = 64
MOST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Histograms:
    """All histograms of a run that are drawn.

    Attributes:
        tensors: For each its kind, place, and the histograms by step.
        text: How many there are, for those who cannot see them, and what was left out.
    """

    tensors: list[dict[str, Any]]
    text: str

    @property
    def kinds(self) -> list[str]:
        """Return the kinds that there are, in order."""
        return list(dict.fromkeys(tensor["kind"] for tensor in self.tensors))


def histograms(run: StoredRun) -> Histograms:
    """Return the histograms of a run: of many tensors evenly chosen ones."""
    series: dict[tuple[str, str], list[Histogram]] = {}
    for picture in run.pictures:
        if isinstance(picture, Histogram) and _can_be_drawn(picture):
            series.setdefault((picture.kind, picture.place), []).append(picture)
    shown = _chosen(series)
    text = f"{len(shown)} tensors, each at up to {MOST_STEPS} steps."
    if len(shown) < len(series):
        text = f"Of {len(series)} tensors, evenly chosen: {text}"
    return Histograms(tensors=[_tensor(series[key]) for key in shown], text=text)


def _can_be_drawn(picture: Histogram) -> bool:
    return bool(picture.counts) and math.isfinite(picture.high - picture.low)


def _chosen(series: dict[tuple[str, str], Any]) -> list[tuple[str, str]]:
    """Choose as many tensors of each kind, so that one place can be compared across kinds."""
    kinds = list(dict.fromkeys(kind for kind, _ in series))
    if len(series) <= MOST_TENSORS:
        return list(series)
    most = max(1, MOST_TENSORS // len(kinds))
    of_kind = ([key for key in series if key[0] == kind] for kind in kinds[:MOST_TENSORS])
    return [key for keys in of_kind for key in evenly(keys, most)]


def _tensor(pictures: list[Histogram]) -> dict[str, Any]:
    shown = evenly(sorted(pictures, key=lambda picture: picture.step), MOST_STEPS)
    last = shown[-1]
    between = f"{said(last.low)} and {said(last.high)}"
    place = clean(last.place, MOST_NAME)
    binned = [_binned(picture) for picture in shown]
    return {
        "kind": clean(last.kind, MOST_NAME),
        "place": place,
        "steps": [picture.step for picture in shown],
        "low": [short(picture.low) for picture in shown],
        "high": [short(high) for high, _ in binned],
        "counts": [counts for _, counts in binned],
        "text": f"At step {last.step} the values of {place} lie between {between}.",
    }


def _binned(picture: Histogram) -> tuple[float, list[int]]:
    """Add up neighbouring bins where there are too many; return the upper end and the counts."""
    counts = picture.counts
    together = -(-len(counts) // MOST_BINS)
    sums = [sum(counts[i : i + together]) for i in range(0, len(counts), together)]
    width = (picture.high - picture.low) / len(counts)
    return picture.low + width * together * len(sums), sums
