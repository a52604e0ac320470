"""Update over weight, by parameter group."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from lightning_debug.observation import ParameterUpdate, Updates

SMALLEST_SCALE = 0.5  # of 1 / sqrt(fan_in): what small and zero initial weights are held against


@dataclass(frozen=True)
class Ratios:
    """The update ratios of the weight matrices of one parameter group.

    Attributes:
        median: Median over the matrices.
        extreme: Name of the matrix with the largest ratio.
        count: Number of matrices.
        lr: Learning rate of the group.
        base_lr: What a scheduler takes as its full learning rate; nan without one.
    """

    median: float
    extreme: str
    count: int
    lr: float
    base_lr: float = math.nan


def ratio(update: ParameterUpdate, weight: float) -> float:
    """Return update over weight (rms); the weight counts as at least a usual initial size."""
    return update.update_rms / max(weight, SMALLEST_SCALE / math.sqrt(update.fan_in))


def by_group(obs: Updates, weights: Mapping[str, float] | None = None) -> dict[str, Ratios]:
    """Return the ratios of each parameter group, by a name such as ``"AdamW group 1"``.

    Args:
        obs: The updates.
        weights: Size (rms) of each weight to hold its update against; as it is now by default.
    """
    sizes = weights or {name: update.weight_rms for name, update in obs.parameters.items()}
    groups: dict[int, dict[str, float]] = defaultdict(dict)
    rates: dict[int, tuple[float, float]] = {}
    for name, update in obs.parameters.items():
        # A step too small for the number format is a step of 0; one without a gradient is none.
        stepped = update.update_rms > 0.0 or update.driven
        if update.fan_in and update.trainable and stepped and math.isfinite(update.update_rms):
            groups[update.group][name] = ratio(update, sizes[name])
            rates[update.group] = update.lr, update.base_lr
    several = len({update.group for update in obs.parameters.values()}) > 1
    return {
        f"{obs.optimizer} group {group}" if several else obs.optimizer: Ratios(
            median(values.values()),
            max(values, key=lambda name: values[name]),
            len(values),
            *rates[group],
        )
        for group, values in groups.items()
    }
