"""Tensors to numbers, on the device, with kernels that are cheap on the processor too.

``var_mean``, ``count_nonzero`` and ``isfinite`` over whole activations cost 20 to 100 times as
much on a CPU as a sum or a norm. So finiteness is read off a sum, shares are counted on a strided
sample, and only sums, norms and maxima run over whole tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

PARAMETER_SAMPLE = 512
ACTIVATION_SAMPLE = 4096
SAMPLES = 16
FEATURES = 256


def dense(tensor: Tensor | None) -> Tensor | None:
    """Return the real floating-point values of a tensor, or None where it has none to measure.

    Sparse tensors give their stored values, complex ones their real and imaginary parts, and
    distributed ones the local shard. Integer, quantised, nested, meta, functorch and empty
    tensors give None.
    """
    if tensor is None:
        return None
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.is_nested or tensor.is_quantized or tensor.device.type == "meta":
        return None
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    try:
        tensor.data_ptr()
    except RuntimeError:
        return None  # a tensor without memory: one sample of torch.func.vmap, a fake tensor
    return tensor.detach()


def on_host(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """Return a view of the values of a tensor that lies on the host; None of any other.

    Runs no operator at all, so it costs next to nothing and nobody who counts or records
    operators notices.
    """
    kinds: dict[torch.dtype, Any] = {
        torch.float32: ctypes.c_float,
        torch.float64: ctypes.c_double,
    }
    kind = kinds.get(tensor.dtype)
    strided = tensor.device.type == "cpu" and tensor.layout is torch.strided
    if kind is None or not strided or not tensor.is_contiguous():
        return None
    try:
        memory = (kind * tensor.numel()).from_address(tensor.data_ptr())
    except RuntimeError:
        return None  # a tensor without memory
    return np.frombuffer(memory, dtype=np.float32 if kind is ctypes.c_float else np.float64)


def stride_for(numel: int, size: int) -> int:
    """Return an odd stride that leaves at most ``size`` of ``numel`` elements.

    Odd, so that it does not fall on the same column of every row.
    """
    return -(-numel // size) | 1


def sample(tensor: Tensor, size: int) -> Tensor:
    """Return at most ``size`` elements of a tensor, evenly spread, shape ``(n,)``."""
    return tensor.reshape(-1)[:: stride_for(tensor.numel(), size)]


def norm(tensor: Tensor) -> Tensor:
    """Return the Euclidean norm in float32."""
    result: Tensor = torch.linalg.vector_norm(tensor, dtype=wide(tensor))
    return result


def total(tensor: Tensor) -> Tensor:
    """Return the sum in float32: finite exactly if all elements are, short of an overflow."""
    return tensor.sum(dtype=wide(tensor))


def wide(tensor: Tensor) -> torch.dtype:
    """Return the dtype to accumulate in."""
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def spread(tensor: Tensor) -> Tensor | None:
    """Return how much samples differ, relative to their size; None for fewer than four samples.

    The standard deviation over a few samples (axis 0) of a few features, over their rms; 0 where
    all values are 0.
    """
    if tensor.ndim < 2 or tensor.shape[0] < 4:
        return None
    rows = tensor[:: -(-tensor.shape[0] // SAMPLES)].flatten(1)
    rows = rows[:, :: stride_for(rows.shape[1], FEATURES)].to(wide(tensor))
    centred = rows - rows.mean(dim=0)
    return norm(centred) / norm(rows).clamp_min(torch.finfo(torch.float32).tiny)


def spread_of_positions(tensor: Tensor) -> Tensor | None:
    """Return how much the positions of a sample differ, relative to their size.

    Of shape (N, T, F), over axis 1; None for other shapes and fewer than four positions.
    """
    if tensor.ndim != 3 or tensor.shape[1] < 4:
        return None
    steps = [-(-tensor.shape[0] // 4), -(-tensor.shape[1] // SAMPLES)]
    rows = tensor[:: steps[0], :: steps[1], :: stride_for(tensor.shape[2], FEATURES)]
    rows = rows.to(wide(tensor))
    centred = rows - rows.mean(dim=1, keepdim=True)
    return norm(centred) / norm(rows).clamp_min(torch.finfo(torch.float32).tiny)


def foreach_norm(tensors: Sequence[Tensor], order: float = 2.0) -> list[Tensor]:
    """Return the norm of each tensor in float32 or wider, fused where they are alike."""
    if not tensors:
        return []
    widest = torch.float64 if torch.float64 in {t.dtype for t in tensors} else torch.float32
    return list(torch._foreach_norm(list(tensors), order, dtype=widest))


def tensors_in(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, mappings and dataclass-like outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
    elif depth and hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name, None), depth - 1)


def first_dense(value: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the first measurable tensor in a value: itself, and its values."""
    for tensor in tensors_in(value):
        values = dense(tensor)
        if values is not None:
            return tensor, values
    return None, None
