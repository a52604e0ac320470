"""Two runs compared, as one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_debug.report.rendering import render
from lightning_debug.sinks.run_folder import write_whole
from lightning_debug.tracking.diff import Difference, shown
from lightning_debug.tracking.divergence import Curve
from lightning_debug.tracking.terminal import finding_words, layer_words

WIDTH, HEIGHT, MARGIN = 720.0, 260.0, 60.0
MOST_CHANGES = 100


@dataclass(frozen=True)
class Chart:
    """Two curves as paths of an SVG drawing, with a few words at the axes.

    Attributes:
        paths: One for each run; empty for one without losses.
        marks: Horizontal position and words of what happens at a step.
        low, high, first, last: What stands at the ends of the axes.
    """

    paths: tuple[str, str]
    marks: tuple[tuple[float, str], ...]
    low: str
    high: str
    first: int
    last: int


def write(difference: Difference, path: Path) -> Path:
    """Write the page, and return where it is."""
    write_whole(path, page(difference))
    return path


def page(difference: Difference) -> str:
    """Return the page."""
    return render(
        "diff.html.j2",
        difference=difference,
        chart=chart(difference),
        size=(WIDTH, HEIGHT, MARGIN),
        findings=[finding_words(change) for change in difference.findings],
        layers=_layers(difference),
        shown=shown,
        most=MOST_CHANGES,
    )


def chart(difference: Difference) -> Chart | None:
    """Return the losses of both runs, drawn; None where there is nothing to draw."""
    curves = difference.losses.curves
    points = [point for curve in curves for point in _points(curve)]
    if len(points) < 2:
        return None
    steps = [step for step, _ in points]
    low, high = _range([value for _, value in points])
    first, last = min(steps), max(steps)

    def across(step: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (step - first) / max(1, last - first)

    def down(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (min(value, high) - low) / (high - low)

    drawn = [[(across(x), down(y)) for x, y in _points(curve)] for curve in curves]
    parted = difference.losses.first, difference.losses.clear
    words = f"part at {parted[0]}", f"beyond noise from {parted[1]}"
    marks = [
        (across(step), text) for step, text in zip(parted, words, strict=True) if step is not None
    ]
    return Chart(
        paths=(_path(drawn[0]), _path(drawn[1])),
        marks=tuple(marks[:1] if parted[0] == parted[1] else marks),
        low=f"{low:.3g}",
        high=f"{high:.3g}",
        first=first,
        last=last,
    )


def _points(curve: Curve) -> list[tuple[int, float]]:
    both = zip(curve.steps, curve.values, strict=True)
    return [(step, value) for step, value in both if math.isfinite(value)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the values that the axis spans; of a loss that explodes not the highest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    usual = ordered[int(0.9 * (len(ordered) - 1))]
    if high - low > 20 * (usual - low) > 0:
        high = low + 2 * (usual - low)
    return low, high if high > low else low + max(1e-12, abs(low))


def _path(points: Sequence[tuple[float, float]]) -> str:
    if len(points) == 1:
        points = [*points, *points]
    return "".join(
        f"{'M' if number == 0 else 'L'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(points)
    )


def _layers(difference: Difference) -> list[str]:
    """Return where the numbers of layers differ, in sentences."""
    first, clear = difference.layer, difference.clear_layer
    if first is None:
        return ["No number of a layer differs."]
    said = [f"Layers: {layer_words(first)}."]
    if clear and (clear.step, clear.layer) != (first.step, first.layer):
        said.append(f"Layers beyond noise: {layer_words(clear)}.")
    return said
