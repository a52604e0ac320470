"""The numbers of each layer at a look: what the maps of layers by steps are drawn from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from lightning_debug.observation import Activations, Glance, Gradients, Observation, Updates, owner

# By name: what it is, in the words of a reader.
METRICS = {
    "gradient-norm": "Euclidean norm of the gradient",
    "update-ratio": "size of an update over the size of the weights",
    "activation-rms": "root mean square of the output",
    "activation-spread": "how much the samples of a batch differ, relative to their size",
    "dead-share": "share of ReLU units that are zero for every sample",
}


def of(obs: Observation) -> dict[str, dict[str, float]]:
    """Return the numbers of an observation, by metric and layer; layers in order of execution."""
    ratios: dict[str, float]
    if isinstance(obs, Gradients):
        return {
            "gradient-norm": _joined({n: g.norm for n, g in obs.parameters.items() if g.present})
        }
    if isinstance(obs, Glance):
        ratios = {}
        for name, ratio in obs.ratios.items():
            ratios.setdefault(owner(name), ratio)
        return {"gradient-norm": _joined(obs.gradients), "update-ratio": ratios}
    if isinstance(obs, Updates):
        ratios = {}
        for name, update in obs.parameters.items():
            # Of several parameters of a layer the one with most to learn speaks: its matrix.
            if update.fan_in and update.weight_rms > 0:
                ratios.setdefault(owner(name), update.update_rms / update.weight_rms)
        return {"update-ratio": ratios}
    if isinstance(obs, Activations):
        calls = [call for call in obs.modules if not math.isnan(call.rms)]
        spreads = {c.place: c.spread for c in calls if not math.isnan(c.spread)}
        dead = {c.place: c.dead_share for c in obs.nonlinear if c.kind == "relu"}
        rms = {call.place: call.rms for call in calls}
        return {"activation-rms": rms, "activation-spread": spreads, "dead-share": dead}
    return {}


def _joined(norms: Mapping[str, float]) -> dict[str, float]:
    """Return the norm of each layer from those of its parameters."""
    squares: dict[str, float] = defaultdict(float)
    for name, norm in norms.items():
        squares[owner(name)] += norm**2
    return {name: math.sqrt(value) for name, value in squares.items()}
