"""The few curves worth plotting: numbers of a look, by group of layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from lightning_debug.observation import (
    Activations,
    Clipping,
    Glance,
    GradientNoise,
    Gradients,
    Observation,
    Updates,
    Validation,
    owner,
)

GROUPS = 32


def group(place: str, depth: int = 1) -> str:
    """Return the group of layers that a parameter or module belongs to: ``"encoder"``."""
    parts = place.split(" > ")[0].split(".")
    return ".".join(parts[:depth]) or "model"


def of(obs: Observation) -> dict[str, float]:
    """Return the scalars of an observation; nothing for a kind that has none."""
    if isinstance(obs, Gradients):
        squares = [(owner(n), g.norm**2) for n, g in obs.parameters.items() if g.present]
        return {"gradient-norm": obs.norm} | {
            f"gradient-norm/{name}": math.sqrt(sum(values)) for name, values in _grouped(squares)
        }
    if isinstance(obs, Updates):
        ratios = [
            (owner(name), u.update_rms / u.weight_rms)
            for name, u in obs.parameters.items()
            if u.fan_in and u.weight_rms > 0
        ]
        rates = {u.lr for u in obs.parameters.values() if not math.isnan(u.lr)}
        rate = {f"learning-rate/{obs.optimizer}": max(rates)} if rates else {}
        return rate | {f"update-ratio/{name}": _median(v) for name, v in _grouped(ratios)}
    if isinstance(obs, Glance):
        squares = [(owner(name), norm**2) for name, norm in obs.gradients.items()]
        ratios = [(owner(name), ratio) for name, ratio in obs.ratios.items()]
        rate = {} if math.isnan(obs.lr) else {f"learning-rate/{obs.optimizer}": obs.lr}
        return (
            rate
            | {"gradient-norm": obs.norm}
            | {f"gradient-norm/{n}": math.sqrt(sum(v)) for n, v in _grouped(squares)}
            | {f"update-ratio/{n}": _median(v) for n, v in _grouped(ratios)}
        )
    if isinstance(obs, Clipping):
        known = obs.before > 0 and not math.isnan(obs.after)
        return {f"clip-factor/{obs.optimizer}": obs.after / obs.before} if known else {}
    if isinstance(obs, Validation):
        return {"validation-loss": obs.loss} if math.isfinite(obs.loss) else {}
    if isinstance(obs, GradientNoise):
        return {} if math.isnan(obs.scale) else {"noise-scale": obs.scale}
    if isinstance(obs, Activations):
        spreads = [(c.place, c.spread) for c in obs.modules if not math.isnan(c.spread)]
        scales = [(c.place, c.rms) for c in obs.modules if c.parametric]
        dead = [(c.place, c.dead_share) for c in obs.nonlinear if c.kind == "relu"]
        return (
            {f"activation-spread/{name}": _median(v) for name, v in _grouped(spreads)}
            | {f"activation-rms/{name}": _median(v) for name, v in _grouped(scales)}
            | {f"dead-share/{name}": max(v) for name, v in _grouped(dead)}
        )
    return {}


def _grouped(pairs: Iterable[tuple[str, float]]) -> list[tuple[str, list[float]]]:
    pairs = list(pairs)
    depth = 1
    # A model wrapped in one attribute ("net.0", "net.1") is better told apart one level down.
    if len({group(name) for name, _ in pairs}) == 1:
        depth = 2
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        key = group(name, depth)
        if key in groups or len(groups) < GROUPS:
            groups[key].append(value)
    return list(groups.items())


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
