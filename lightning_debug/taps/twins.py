"""An optimizer's own step on a few numbers of ours, which tells how it treats any numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

# Far from eps, and small against whatever clips a step.
WEIGHTS = (2.0, 1.0)
ALIKE = 0.05
# RAdam makes plain steps at first.
STEPS = 8


class NoTwinError(Exception):
    """An optimizer cannot be made to step on other numbers than its own."""


def stepped(
    optimizer: Optimizer,
    settings: Mapping[str, Any],
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[Mapping[str, Any]] = (),
    *,
    times: int = 1,
) -> list[Tensor]:
    """Return what a step of an optimizer would make of some values.

    Neither the optimizer nor its state is touched, no hook of a step is run, and no random number
    is drawn from the process.

    Args:
        optimizer: Gives the rule.
        settings: Those of one of its groups.
        values: The values.
        gradients: Their gradients.
        states: What it keeps for each of them; taken over, and written to.
        times: How many steps to make, all with the same gradients.

    Raises:
        NoTwinError: If it does not step by itself.
    """
    toys = [Parameter(v.detach().clone()) for v in values]
    for toy, gradient in zip(toys, gradients, strict=True):
        toy.grad = gradient.detach().clone()
    kind = type(optimizer)
    step = getattr(kind, "step", None)
    # Without the hooks of all optimizers, among which are those of whoever counts steps.
    step = getattr(step, "__wrapped__", None) if hasattr(step, "hooked") else None
    if step is None:
        raise NoTwinError(f"{kind.__name__} has a step of its own")
    group = {k: v.clone() if isinstance(v, Tensor) else v for k, v in settings.items()}
    group |= {"params": toys} | ({"capturable": False} if "capturable" in group else {})
    state: dict[Any, Any] = defaultdict(dict, zip(toys, map(dict, states), strict=False))
    devices = [v.device for v in values[:1] if v.device.type == "cuda"]
    try:
        twin = kind.__new__(kind)
        defaults = dict(optimizer.defaults)
        twin.__setstate__({"defaults": defaults, "state": state, "param_groups": [group]})
        with torch.random.fork_rng(devices), torch.no_grad():
            for _ in range(times):
                step(twin)
    except Exception as error:
        raise NoTwinError(f"{kind.__name__} does not step on other numbers: {error}") from error
    return [toy.detach() for toy in toys]


def decay_of(optimizer: Optimizer, settings: Mapping[str, Any]) -> str:
    """Return where the weight decay of a group goes.

    ``"decoupled"``: it is taken off the weights. ``"gradient"``: it is added to a gradient that
    makes a step of its size. ``"adaptive"``: it is added to a gradient whose size the step does
    not keep, so that large and small weights shrink alike. Empty where nothing tells.
    """
    if settings.get("decoupled_weight_decay"):
        return "decoupled"
    weights = torch.tensor(WEIGHTS).view(-1, 1).expand(-1, 2)
    lonely = {k: v for k, v in settings.items() if not isinstance(v, Tensor)} | {"lr": 1e-3}
    try:
        with torch.no_grad():
            lost = _change(optimizer, lonely | {"weight_decay": 0.1}, weights, 0.0)
            plain = lonely | {"weight_decay": 0.0}
            small, large = (_change(optimizer, plain, weights, g) for g in (1.0, 100.0))
    except (NoTwinError, RuntimeError):
        return ""
    if not bool((lost > 0).all()):
        return ""
    ratio = float(lost[0, 0] / lost[1, 0]) / (WEIGHTS[0] / WEIGHTS[1])
    if abs(ratio - 1.0) > ALIKE:
        return "adaptive"
    growth = float(large.abs().sum() / small.abs().sum().clamp_min(1e-30))
    return "gradient" if growth > 10.0 else "decoupled"


def _change(
    optimizer: Optimizer, settings: Mapping[str, Any], weights: Tensor, gradient: float
) -> Tensor:
    gradients = [torch.full_like(weights, gradient)]
    (after,) = stepped(optimizer, settings, [weights], gradients, times=STEPS)
    return weights - after
