"""The curves over steps: loss, learning rate, clipping, gradient norm, noise scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_debug.look import Look
from lightning_debug.report.rendering import clean
from lightning_debug.report.thinning import Point, evenly, points, said
from lightning_debug.stored_run import StoredRun

MOST_POINTS = 2000
MOST_SERIES = 8
MOST_MARKS = 12
MOST_EPOCHS = 30
MOST_EXPERIMENTS = 30
MOST_NAME = 120
DECADES = 2.0

# By name of the scalars: title of the chart, and what its numbers are.
SCALARS = {
    "gradient-norm": ("Gradient norm", "norm of the whole gradient"),
    "learning-rate": ("Learning rate", "learning rate"),
    "clip-factor": ("Gradient norm after clipping", "share left by clipping"),
    "noise-scale": ("Gradient noise scale", "noise scale, in samples"),
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of lines.

    Attributes:
        id: Unique on the page.
        title, x, y: Of the chart and its axes, in words.
        series: Name and points of each line.
        text: What is to be seen, for those who cannot see it.
        log: Whether the y axis is logarithmic at first; None where it cannot be.
        marks: Steps at which something happened, with a label.
        epochs: First steps of epochs.
    """

    id: str
    title: str
    y: str
    series: list[tuple[str, list[Point]]]
    text: str
    x: str = "step"
    log: bool | None = None
    marks: list[tuple[int, str]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """Return what the scripts draw it from."""
        return {
            "id": self.id,
            "kind": "lines",
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "series": [{"name": name, "points": line} for name, line in self.series],
            "marks": [{"x": step, "label": label} for step, label in self.marks],
            "limits": [],
            "epochs": self.epochs,
            "log": self.log,
            "text": self.text,
        }


def curves(run: StoredRun) -> list[Chart]:
    """Return the charts over the steps of a run; none of what was not measured."""
    marks = [(step, str(index)) for index, (step, _) in enumerate(marked_steps(run), start=1)]
    about = {"marks": marks, "epochs": _epochs(run.stats)}
    drawn = [_loss(run.stats, about)]
    drawn += [_scalar(run.stats, name, about) for name in SCALARS]
    return [chart for chart in drawn if chart]


def experiment_curves(run: StoredRun) -> dict[int, Chart]:
    """Return the chart of each experiment that trained a copy, by its place in the list."""
    drawn = [(i, e) for i, e in enumerate(run.experiments) if len(e.curve) > 1]
    return {
        index: Chart(
            id=f"experiment-{index}",
            title=clean(experiment.name, MOST_NAME),
            x="step of the experiment",
            y="loss",
            series=[("loss", points(range(len(experiment.curve)), experiment.curve, MOST_POINTS))],
            text=_told(range(len(experiment.curve)), experiment.curve),
            log=_spans(np.asarray(experiment.curve, dtype=np.float64)),
        )
        for index, experiment in evenly(drawn, MOST_EXPERIMENTS)
    }


def marked_steps(run: StoredRun) -> list[tuple[int, list[str]]]:
    """Return the steps at which findings were first seen, with their names; the first few."""
    steps: dict[int, list[str]] = {}
    for finding in run.findings:
        steps.setdefault(finding.step, []).append(clean(finding.name, MOST_NAME))
    return sorted(steps.items())[:MOST_MARKS]


def _loss(looks: Sequence[Look], about: dict[str, Any]) -> Chart | None:
    count = sum(len(look.losses) for look in looks)
    if not count:
        return None
    flat = chain.from_iterable(chain.from_iterable(look.losses for look in looks))
    table = np.fromiter(flat, np.float64, count * 2).reshape(count, 2)
    steps, losses = table[:, 0].astype(np.int64), table[:, 1]
    series = [("loss of a step", points(steps, losses, MOST_POINTS))]
    if count >= 50:
        smooth = points(steps, _smooth(losses), MOST_POINTS // 4)
        series.append(("mean of the steps around it", smooth))
    text = _told(steps, losses)
    for line in _lines(looks, "validation-loss").values():
        series.append(("validation loss", points(line[:, 0], line[:, 1], MOST_POINTS // 4)))
        text += f" Validation loss: {_told(line[:, 0], line[:, 1])}"
    return Chart(
        id="loss", title="Loss", y="loss", series=series, text=text, log=_spans(losses), **about
    )


def _scalar(looks: Sequence[Look], name: str, about: dict[str, Any]) -> Chart | None:
    title, y = SCALARS[name]
    every = _lines(looks, name)
    if not every:
        return None
    lines = {clean(owner or y, MOST_NAME): every[owner] for owner in list(every)[:MOST_SERIES]}
    text = " ".join(f"{owner}: {_told(line[:, 0], line[:, 1])}" for owner, line in lines.items())
    if len(every) > len(lines):
        text += f" {len(every) - len(lines)} more lines are not drawn."
    return Chart(
        id=name,
        title=title,
        y=y,
        series=[
            (owner, points(line[:, 0], line[:, 1], MOST_POINTS // 2))
            for owner, line in lines.items()
        ],
        text=text,
        log=_spans(np.concatenate([line[:, 1] for line in lines.values()])),
        **about,
    )


def _lines(looks: Sequence[Look], name: str) -> dict[str, NDArray[Any]]:
    """Return the steps and values of a scalar in two columns, by what it was measured of."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for look in looks:
        for key, value in look.scalars.items():
            head, _, owner = key.partition("/")
            # The gradient norms of groups of layers are in the maps.
            if head == name and not (owner and name == "gradient-norm"):
                lines.setdefault(owner, []).append((look.step, value))
    return {owner: np.array(line, dtype=np.float64) for owner, line in lines.items()}


def _epochs(looks: Sequence[Look]) -> list[int]:
    """Return the first looked-at steps of epochs; of many epochs evenly chosen ones."""
    first: dict[int, int] = {}
    for look in looks:
        first.setdefault(look.epoch, look.step)
    return evenly(list(first.values())[1:], MOST_EPOCHS)


def _smooth(values: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of the finite values around each one; NaN where there are none."""
    half = max(2, len(values) // 60)
    finite = np.isfinite(values)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.concatenate([[0.0], np.where(finite, values, 0.0).cumsum()])
    counts = np.concatenate([[0], finite.cumsum()])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    number_of = counts[high] - counts[low]
    with np.errstate(over="ignore", invalid="ignore"):
        means = (sums[high] - sums[low]) / np.maximum(number_of, 1)
    smooth: NDArray[Any] = np.where(number_of > 0, means, np.nan)
    return smooth


def _spans(values: NDArray[Any]) -> bool | None:
    """Tell whether values span decades; None where one is no positive number."""
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() <= 0:
        return None
    return bool(math.log10(finite.max()) - math.log10(finite.min()) > DECADES)


def _told(steps: ArrayLike, values: ArrayLike) -> str:
    """Say in words how a line runs."""
    x, y = np.asarray(steps), np.asarray(values, dtype=np.float64)
    finite = np.isfinite(y)
    text = "No value is a finite number."
    if finite.any():
        known, at = y[finite], x[finite]
        low, high = int(known.argmin()), int(known.argmax())
        text = (
            f"{said(known[0])} at step {at[0]:.0f}, {said(known[-1])} at step {at[-1]:.0f};"
            f" lowest {said(known[low])} at step {at[low]:.0f},"
            f" highest {said(known[high])} at step {at[high]:.0f}."
        )
    if not finite.all():
        gaps = int((~finite).sum())
        first = x[~finite][0]
        are = "value is" if gaps == 1 else "values are"
        text += f" {gaps} {are} NaN or infinite, the first at step {first:.0f}: drawn as a gap."
    return text
