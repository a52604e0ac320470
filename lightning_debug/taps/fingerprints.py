"""Samples to a few numbers each: the same for the same sample, in whatever batch it comes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_debug.taps.statistics import bare, stride_for

SAMPLES = 64
FEATURES = 1024
COLUMNS = 64


def rows(tensor: Tensor, samples: int = SAMPLES) -> Tensor:
    """Return some features of the first samples, in double precision, shape ``(n, features)``."""
    first = bare(tensor)[:samples]
    first = first.reshape(len(first), -1)
    first = first[:, :: stride_for(first.shape[1], FEATURES)]
    return first.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def prints(values: Tensor) -> Tensor:
    """Return two projections of each row; the weights are fixed and nothing is drawn."""
    place = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    weights = torch.stack([torch.cos(place * 1.7320508), torch.sin(place * place * 0.6180339)])
    return values @ weights.T


def apart(values: Tensor) -> Tensor:
    """Return of some columns whether two rows agree there only if they agree in all of these."""
    some = values[:, :: stride_for(values.shape[1], COLUMNS)]
    equal = some[:, None] == some
    return equal.sum(dim=(0, 1)) == equal.all(dim=2).sum()
