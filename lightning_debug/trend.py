"""How something changes with depth: a line through logarithms, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lightning_debug.observation import Gradients

SMALL = 0.1


@dataclass(frozen=True)
class Trend:
    """A straight line fitted to the decimal logarithms of positive values.

    Attributes:
        rise: Change from the first value to the last, in powers of ten, along the line.
        correlation: Pearson's correlation of the logarithms with the position.
    """

    rise: float
    correlation: float


def trend(values: Sequence[float]) -> Trend | None:
    """Fit a line; None for fewer than three values, or one that is not positive and finite."""
    if len(values) < 3 or not all(v > 0 and math.isfinite(v) for v in values):
        return None
    logs = [math.log10(value) for value in values]
    positions = range(len(logs))
    middle, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    covariance = sum((x - middle) * (y - mean) for x, y in zip(positions, logs, strict=True))
    spread_x = sum((x - middle) ** 2 for x in positions)
    spread_y = sum((y - mean) ** 2 for y in logs)
    if spread_y == 0:
        return Trend(0.0, 0.0)
    slope = covariance / spread_x
    return Trend(slope * (len(logs) - 1), covariance / math.sqrt(spread_x * spread_y))


def relative_gradients(obs: Gradients) -> dict[str, float]:
    """Return gradient over weight (rms) of the weight matrices, in order of execution.

    Of several heads only the loudest counts, as the last: they lie beside one another. A weight
    that started at zero is taken for larger than it is: nothing is large beside it.
    """
    matrices = [
        (name, g)
        for name, g in obs.parameters.items()
        if g.present and g.dims > 1 and g.order >= 0 and g.weight_rms > 0 and g.largest > 0
    ]
    usual = median([g.weight_rms for _, g in matrices]) if matrices else 0.0
    weights = [
        (g.order, name, g.rms / max(g.weight_rms, SMALL * usual), g.end) for name, g in matrices
    ]
    values = [weight for weight in sorted(weights) if math.isfinite(weight[2])]
    heads = [weight for weight in values if weight[3]]
    loudest = [max(heads, key=lambda weight: weight[2])] if heads else []
    inner = [weight for weight in values if not weight[3]]
    return {name: value for _, name, value, _ in [*inner, *loudest]}
