"""How the boxes of the network are coloured, and what the colours mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_debug.report.rendering import number

NEIGHBOURS = 3
Painted = tuple[str | None, int | None]  # what is written on a box, and its band


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """One way to colour the boxes.

    Attributes:
        key: Name of the metric, or ``"findings"``.
        label: What the colours show.
        words: By band, what the colour means: 0 is the usual, -2 far too small, 2 far too large;
            of findings, 1 to 3 is a remark to an error.
        bounds: Between the bands -2, -1, 0, 1 and 2.
        relative: Whether a number is judged against those of its kind around it.
    """

    key: str
    label: str
    words: Mapping[int, str]
    bounds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    relative: bool = False

    def as_data(self) -> dict[str, Any]:
        """Return what the scripts need of it."""
        words = [[band, word] for band, word in self.words.items()]
        return {"key": self.key, "label": self.label, "words": words}

    def band(self, value: float) -> int:
        """Return the band of a number."""
        if not math.isfinite(value):
            return 2
        return sum(value >= bound for bound in self.bounds) - 2


COLOURINGS = (
    Colouring(
        key="findings",
        label="findings",
        words={0: "no finding", 1: "a remark", 2: "a warning", 3: "an error"},
    ),
    Colouring(
        key="gradient-norm",
        label="gradient norm, against layers of its kind around it",
        words={
            -2: "zero, or 30 times smaller",
            -1: "5 times smaller",
            0: "like its neighbours",
            1: "5 times larger",
            2: "30 times larger, or not finite",
        },
        bounds=(1 / 30, 1 / 5, 5.0, 30.0),
        relative=True,
    ),
    Colouring(
        key="update-ratio",
        label="size of an update over the size of the weights",
        words={
            -2: "below 0.00001: hardly learns",
            -1: "below 0.0001: slow",
            0: "usual",
            1: "above 0.01: fast",
            2: "above 0.1: weights are overwritten",
        },
        bounds=(1e-5, 1e-4, 1e-2, 1e-1),
    ),
    Colouring(
        key="activation-rms",
        label="size of the activations",
        words={
            -2: "below 0.001: vanishing",
            -1: "below 0.05: small",
            0: "usual",
            1: "above 20: large",
            2: "above 1000: exploding",
        },
        bounds=(1e-3, 0.05, 20.0, 1000.0),
    ),
    Colouring(
        key="dead-share",
        label="share of dead ReLU units",
        words={0: "below a tenth", 1: "a tenth to a half", 2: "a half or more"},
        bounds=(-math.inf, -math.inf, 0.1, 0.5),
    ),
)


def colours(
    colouring: Colouring, numbers: Mapping[int, float], kinds: Sequence[str]
) -> list[Painted]:
    """Return for each node what is written on it, and its band; None where nothing is known."""
    judged = _relative(numbers, kinds) if colouring.relative else numbers
    painted: list[Painted] = [(None, None)] * len(kinds)
    for node, value in numbers.items():
        painted[node] = (_said(value), colouring.band(judged[node]))
    return painted


def _relative(numbers: Mapping[int, float], kinds: Sequence[str]) -> dict[int, float]:
    """Return how many times larger each number is than the usual one around it, of its kind.

    A norm and a convolution have gradients of different sizes in the healthiest of networks.
    """
    peers: dict[str, list[int]] = {}
    for node in sorted(numbers):
        peers.setdefault(kinds[node], []).append(node)
    relative = {}
    for nodes in peers.values():
        for place, node in enumerate(nodes):
            around = nodes[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1]
            relative[node] = _times(numbers[node], [numbers[n] for n in around if n != node])
    return relative


def _times(value: float, others: Sequence[float]) -> float:
    known = [other for other in others if math.isfinite(other) and other > 0]
    if value == 0 or not math.isfinite(value):
        return value
    return value / statistics.median(known) if known else 1.0


def _said(value: float) -> str:
    return number(float(f"{value:.3g}")) if math.isfinite(value) else str(value)
