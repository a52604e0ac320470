"""Whether gradients are lost in 16 bits: the same step with the loss multiplied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.observation import FlushedGradient, Precision

# What loss scaling starts from, and less where that overflows.
FACTORS = (2.0**16, 2.0**12, 2.0**8, 2.0**4)


def in_half(model: Module, precision: Callable[[], AbstractContextManager[Any]]) -> bool:
    """Tell whether the model, or the context in which it runs, has numbers of type float16."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if any(p.dtype is torch.float16 for p in trained):
        return True
    kind = next((p.device.type for p in trained), "cpu")
    with precision():
        return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16


def flushed(
    replica: Replica, batch: Any, *, step: int, epoch: int, scale: float = 1.0
) -> Precision:
    """Compare the gradients of a step with those of the same loss times a power of two.

    Multiplied, small gradients stay above the smallest number of float16; divided again, in
    64 bits, they are what they should have been.

    Args:
        replica: A copy in the formats of the run.
        batch: What the training step is about to get.
        step: Optimizer updates made so far.
        epoch: Epoch, counted from 0.
        scale: What the run multiplies the loss by itself.

    Raises:
        NotApplicableError: If they are not finite, or no factor is small enough.
    """
    parameters = replica.parameters
    plain = _gradients(replica, batch, list(parameters.values()), scale)
    if not _finite(plain):
        raise NotApplicableError("the gradients of the copy are not finite")
    for factor in FACTORS:
        if factor <= scale:
            continue
        multiplied = _gradients(replica, batch, list(parameters.values()), factor)
        if _finite(multiplied):
            pairs = dict(zip(parameters, zip(plain, multiplied, strict=True), strict=True))
            return Precision(
                step=step,
                epoch=epoch,
                flushed=_compared(pairs, scale, factor),
                factor=factor / scale,
            )
    raise NotApplicableError("the gradients of the copy overflow when the loss is multiplied")


def _gradients(
    replica: Replica, batch: Any, parameters: Sequence[Tensor], factor: float
) -> list[Tensor | None]:
    losses = replica.losses(batch)
    if not losses:
        raise NotApplicableError("the training step gives no loss")
    total = sum((loss.float() for loss in losses), torch.zeros(()).to(losses[0].device)) * factor
    return list(torch.autograd.grad(total, parameters, allow_unused=True))


def _finite(gradients: Sequence[Tensor | None]) -> bool:
    return all(bool(g.isfinite().all()) for g in gradients if g is not None)


def _compared(
    pairs: Mapping[str, tuple[Tensor | None, Tensor | None]], scale: float, factor: float
) -> dict[str, FlushedGradient]:
    found = {}
    for name, (plain, multiplied) in pairs.items():
        if plain is None or multiplied is None or plain.layout is not torch.strided:
            continue
        mine, true = plain.double() / scale, multiplied.double() / factor
        size = float(true.norm())
        if size > 0.0:
            lost = (mine == 0) & (true != 0)
            found[name] = FlushedGradient(
                error=float((mine - true).norm()) / size,
                zeros=float(lost.double().mean()),
                norm=size,
                numel=true.numel() if true.ndim > 1 else 0,
            )
    return found
