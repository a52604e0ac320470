"""How much the gradient differs from sample to sample: the gradient noise scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_debug.experiments.layout import Samples
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.observation import GradientNoise
from lightning_debug.taps.statistics import sample

PARTS = 16
# Nobody asks for the noise scale of smaller batches: they are not too large.
FEWEST_SAMPLES = 256
MOST_SAMPLES = 512
ELEMENTS = 50_000
# How far the gradient of a batch may differ from the mean over its parts: samples have weights.
COUPLED = 0.1


def noise(replica: Replica, batch: Any, *, step: int, epoch: int) -> GradientNoise:
    """Compare the gradients of parts of a batch, in eval mode.

    Raises:
        NotApplicableError: If a batch has too few samples, several losses, or samples that
            depend on each other, as in contrastive losses.
    """
    replica.evaluating = True
    samples = Samples(replica, batch)
    if samples.size < FEWEST_SAMPLES:
        raise NotApplicableError("there are few samples in the batch")
    size = min(samples.size, MOST_SAMPLES) // PARTS
    # Parts of samples that lie apart: neighbours may be alike.
    picks = [list(range(part, PARTS * size, PARTS)) for part in range(PARTS)]
    parts = torch.stack([_gradient(replica, samples.pick(pick)) for pick in picks])
    whole = _gradient(replica, samples.pick(list(range(PARTS * size))))
    mean = parts.mean(dim=0)
    total = float(torch.linalg.vector_norm(mean))
    if not math.isfinite(total) or total == 0.0:
        raise NotApplicableError("the gradient is zero, or not finite")
    apart = min(
        float(torch.linalg.vector_norm(whole - factor * mean)) / factor for factor in (1.0, PARTS)
    )
    if apart > COUPLED * total:
        raise NotApplicableError("the samples of a batch depend on each other")
    inverse, error = _inverse_scale(parts, size)
    return GradientNoise(
        step=step,
        epoch=epoch,
        scale=_over(inverse),
        low=_over(inverse + 2.0 * error),
        high=_over(inverse - 2.0 * error),
        batch=samples.size,
    )


def _gradient(replica: Replica, batch: Any) -> Tensor:
    """Return a strided sample of the gradient of the loss of a batch."""
    losses = replica.losses(batch)
    if len(losses) != 1:
        raise NotApplicableError("the step has no loss, or several")
    parameters = list(replica.parameters.values())
    try:
        gradients = torch.autograd.grad(losses[0], parameters, allow_unused=True)
    except RuntimeError as error:
        raise NotApplicableError(f"the loss has no gradient: {error}") from error
    size = max(16, ELEMENTS // max(1, len(parameters)))
    dense = [g if g.layout is torch.strided else g.to_dense() for g in gradients if g is not None]
    if not dense:
        raise NotApplicableError("no parameter has a gradient")
    return torch.cat([sample(g.detach(), size) for g in dense])


def _inverse_scale(parts: Tensor, size: int) -> tuple[float, float]:
    """Return squared gradient over variance of a sample, and its jackknife standard error."""
    products = (parts @ parts.T).double()
    count = len(parts)

    def estimate(keep: list[int]) -> float:
        few = products[keep][:, keep]
        n = len(keep)
        each, together = float(few.diagonal().mean()), float(few.mean())
        variance = size * (each - together) * n / (n - 1)
        square = together - variance / (size * n)
        return square / max(variance, 1e-300)

    left_out = [estimate([i for i in range(count) if i != out]) for out in range(count)]
    centre = sum(left_out) / count
    spread = sum((value - centre) ** 2 for value in left_out) * (count - 1) / count
    return estimate(list(range(count))), math.sqrt(spread)


def _over(value: float) -> float:
    return 1.0 / value if value > 0 else math.inf
