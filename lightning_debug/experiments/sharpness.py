"""How sharply the loss bends: the largest eigenvalue of its Hessian, on demand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug.experiments.replica import NotApplicableError, Replica, single, working_copy
from lightning_debug.taps.statistics import tensors_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpness:
    """How sharply the loss of one training step bends at the present weights.

    Attributes:
        largest: The largest eigenvalue of the Hessian by magnitude, with its sign.
        loss: The loss at these weights.
        relative: By how much per cent the loss rises, to second order, when all weights are moved
            along the sharpest direction by a thousandth of their norm, over ``1 + loss``: the
            sharpness of Keskar et al. (2017), where bends count and slopes do not.
        stable_lr: 2 over ``largest``: gradient descent with a larger learning rate bounces out of
            the valley; training with a constant rate often settles at this edge of stability
            (Cohen et al. 2021). Infinite where nothing bends upwards.
        change: Relative change of the eigenvalue in the last iteration; small where it is found.
    """

    largest: float
    loss: float
    relative: float
    stable_lr: float
    change: float


def sharpness(
    model: Module,
    batch: Any,
    *,
    power_iterations: int = 10,
    optimizers: Sequence[Optimizer] = (),
) -> Sharpness:
    """Measure the sharpness of the loss of a training step, on a copy in eval mode and float64.

    The model, its random numbers and its gradients stay as they are. It takes
    ``power_iterations`` times the time of about four training steps.

    Args:
        model: A LightningModule, or any module with a ``training_step``.
        batch: What the training step is given, on the device of the model.
        power_iterations: How often a direction is multiplied by the Hessian.
        optimizers: What the training step gets from ``self.optimizers()``, if it asks.

    Raises:
        TypeError: If the model has no ``training_step``, or the batch holds no tensors.
        ValueError: If ``power_iterations`` is less than 1, or the loss has no Hessian.
    """
    if not callable(getattr(model, "training_step", None)):
        raise TypeError(f"{type(model).__name__} has no training_step: pass a LightningModule")
    if not any(True for _ in tensors_in(batch)):
        raise TypeError("the batch holds no tensors: pass what training_step is given")
    if isinstance(power_iterations, bool) or not isinstance(power_iterations, int):
        raise ValueError(f"power_iterations={power_iterations!r} must be a whole number")
    if power_iterations < 1:
        raise ValueError(f"power_iterations={power_iterations} must be at least 1")
    try:
        with working_copy(model, optimizers, dtype=torch.float64) as replica:
            replica.evaluating = True
            return _measured(replica, batch, power_iterations)
    except NotApplicableError as reason:
        raise ValueError(f"the sharpness cannot be measured: {reason}") from reason


def _measured(replica: Replica, batch: Any, iterations: int) -> Sharpness:
    loss = single(replica.losses(batch))
    parameters = list(replica.parameters.values())
    try:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        largest, change = _power(used, iterations)
    except RuntimeError as error:
        raise NotApplicableError(f"the loss has no second derivative: {error}") from error
    value = float(loss.detach())
    weights = math.sqrt(sum(float(p.detach().square().sum()) for p, _ in used))
    rise = 0.5 * largest * (1e-3 * weights) ** 2
    return Sharpness(
        largest=largest,
        loss=value,
        relative=100.0 * rise / (1.0 + abs(value)),
        stable_lr=2.0 / largest if largest > 0 else math.inf,
        change=change,
    )


def _power(used: Sequence[tuple[Tensor, Tensor]], iterations: int) -> tuple[float, float]:
    """Return the eigenvalue that repeated products with the Hessian lead to, and its last change.

    From the same directions each time: the generators were seeded when the step was run.
    """
    directions = _unit([torch.randn_like(p) for p, _ in used])
    eigenvalue, change = 0.0, math.inf
    for _ in range(iterations):
        products = _product(used, directions)
        now = sum(float((d * h).sum()) for d, h in zip(directions, products, strict=True))
        change = abs(now - eigenvalue) / max(abs(now), 1e-300)
        eigenvalue = now
        if not any(bool(h.any()) for h in products):
            return 0.0, 0.0  # the loss does not bend along any of them
        directions = _unit(products)
    return eigenvalue, change


def _product(used: Sequence[tuple[Tensor, Tensor]], directions: Sequence[Tensor]) -> list[Tensor]:
    """Return the Hessian times a direction."""
    parameters = [p for p, _ in used]
    # A gradient that does not depend on any weight, as of a linear loss, has no derivative.
    pairs = [(g, d) for (_, g), d in zip(used, directions, strict=True) if g.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in parameters]
    along = torch.stack([(g * d).sum() for g, d in pairs]).sum()
    found = torch.autograd.grad(along, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if h is None else h for p, h in zip(parameters, found, strict=True)]


def _unit(tensors: Sequence[Tensor]) -> list[Tensor]:
    size = math.sqrt(sum(float(t.square().sum()) for t in tensors))
    return [t.detach() / size for t in tensors]
