"""Tensors to numbers, on the device, with kernels that are cheap on the processor too.

``var_mean``, ``count_nonzero`` and ``isfinite`` over whole activations cost 20 to 100 times as
much on a CPU as a sum or a norm. So finiteness is read off a sum, shares are counted on a strided
sample, and only sums, norms and maxima run over whole tensors.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

PARAMETER_SAMPLE = 512
ACTIVATION_SAMPLE = 4096
SAMPLES = 16
PLAIN = frozenset([Tensor, Parameter])
# Tensors that are worth a copy to be measured together.
SMALL, FEW = 4096, 4
FEATURES = 256


def dense(tensor: Tensor | None) -> Tensor | None:
    """Return the real floating-point values of a tensor, or None where it has none to measure.

    Sparse tensors give their stored values, complex ones their real and imaginary parts, and
    distributed ones the local shard. Integer, quantised, nested, meta, functorch and empty
    tensors give None, as do those whose memory was given back.
    """
    if tensor is None:
        return None
    tensor = local(tensor)
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
        freed = tensor.data_ptr() == 0  # gathered from shards, and let go of
    except RuntimeError:
        return None  # a tensor without memory: one sample of torch.func.vmap, a fake tensor
    return None if freed else bare(tensor)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a distributed tensor; any other as it is."""
    if type(tensor) in PLAIN or not hasattr(tensor, "to_local"):
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local()
    return part


def on_host(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """Return the values of a tensor that lies on the host, in 32 bits or more; None of any other.

    Runs no operator at all, so it costs next to nothing and nobody who counts or records
    operators notices. A distributed tensor gives its local shard.
    """
    tensor = local(tensor)
    kinds: dict[torch.dtype, Any] = {
        torch.float16: ctypes.c_uint16,
        torch.bfloat16: ctypes.c_uint16,
        torch.float32: ctypes.c_float,
        torch.float64: ctypes.c_double,
    }
    kind = kinds.get(tensor.dtype)
    strided = tensor.device.type == "cpu" and tensor.layout is torch.strided
    if kind is None or not strided or not tensor.is_contiguous():
        return None
    try:
        address = tensor.data_ptr()
        end = tensor.storage_offset() + tensor.numel()
        held = tensor.untyped_storage().nbytes() >= end * tensor.element_size()
    except (RuntimeError, NotImplementedError):
        return None  # a tensor without memory
    if not (address and held):
        return None  # nothing to read, or not as much as it says of itself
    memory = (kind * tensor.numel()).from_address(address)
    if tensor.dtype is torch.bfloat16:  # the upper half of a number of 32 bits
        return (np.frombuffer(memory, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
    if tensor.dtype is torch.float16:
        return np.frombuffer(memory, dtype=np.float16).astype(np.float32)
    return np.frombuffer(memory, dtype=np.float32 if kind is ctypes.c_float else np.float64)


def stride_for(numel: int, size: int) -> int:
    """Return an odd stride that leaves at most ``size`` of ``numel`` elements.

    Odd, so that it does not fall on the same column of every row.
    """
    return -(-numel // size) | 1


def bare(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph, and without a class of the user's own.

    Such a class may compute in a way of its own: keep labels beside the values, check units.
    """
    kind = type(tensor)
    if kind in PLAIN or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        plain: Tensor = Tensor.detach(tensor).as_subclass(Tensor)
    return plain


def sample(tensor: Tensor, size: int) -> Tensor:
    """Return at most ``size`` elements of a tensor, evenly spread, shape ``(n,)``."""
    return bare(tensor).reshape(-1)[:: stride_for(tensor.numel(), size)]


def samples(tensors: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Return copies of at most ``size`` elements of each tensor; of small ones many at once."""
    values = list(tensors.values())
    copies: dict[int, Tensor] = {}
    for places in _small_and_alike(values):
        rows = torch.stack([values[i] for i in places]).flatten(1)
        few = rows[:, :: stride_for(rows.shape[1], size)].clone()
        copies.update(zip(places, few.unbind(), strict=True))
    return {
        name: copies[i] if i in copies else sample(values[i], size).clone()
        for i, name in enumerate(tensors)
    }


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


def few_samples(tensor: Tensor) -> Tensor | None:
    """Return a copy of a few features of a few samples, shape ``(1, n, m)``.

    None for fewer than four samples.
    """
    if tensor.ndim < 2 or tensor.shape[0] < 4:
        return None
    rows = tensor[:: -(-tensor.shape[0] // SAMPLES)].flatten(1)
    return rows[None, :, :: stride_for(rows.shape[1], FEATURES)].to(wide(tensor), copy=True)


def few_positions(tensor: Tensor) -> Tensor | None:
    """Return a copy of a few positions of a few samples, from shape ``(N, T, F)``.

    None for other shapes and fewer than four positions.
    """
    if tensor.ndim != 3 or tensor.shape[1] < 4:
        return None
    steps = [-(-tensor.shape[0] // 4), -(-tensor.shape[1] // SAMPLES)]
    rows = tensor[:: steps[0], :: steps[1], :: stride_for(tensor.shape[2], FEATURES)]
    return rows.to(wide(tensor), copy=True)


def spreads(rows: Tensor) -> Tensor:
    """Return how much the rows of each table differ, relative to their size.

    The standard deviation over the rows over their rms; 0 where all values are 0.

    Args:
        rows: Several tables of one shape that :func:`few_samples` or :func:`few_positions` made,
            of shape ``(tables, parts, rows, columns)``.
    """
    centred = rows - rows.mean(dim=2, keepdim=True)
    sizes = [torch.linalg.vector_norm(values, dim=(1, 2, 3)) for values in (centred, rows)]
    relative: Tensor = sizes[0] / sizes[1].clamp_min(torch.finfo(torch.float32).tiny)
    return relative


def norms(tensors: Sequence[Tensor], order: float = 2.0) -> list[tuple[list[int], Tensor]]:
    """Return the norm of each tensor in float32 or wider, fused where they are alike.

    Returns:
        Rows of norms, each with the positions of its tensors and on their device.
    """
    widest = torch.float64 if torch.float64 in {t.dtype for t in tensors} else torch.float32
    found = []
    for places in _small_and_alike(tensors):
        rows = torch.stack([tensors[i] for i in places]).flatten(1)
        found.append((places, torch.linalg.vector_norm(rows, order, dim=1, dtype=widest)))
    measured = {i for places, _ in found for i in places}
    alone: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if i not in measured:
            alone.setdefault(tensor.device, []).append(i)
    for places in alone.values():
        rest = [tensors[i] for i in places]
        if order == math.inf:
            found.append((places, torch.stack([largest(v).to(widest) for v in rest])))
        else:
            found.append((places, torch.stack(torch._foreach_norm(rest, order, dtype=widest))))
    return found


def largest(tensor: Tensor) -> Tensor:
    """Return the largest magnitude; on a processor fifteen times as fast as the infinity norm."""
    low, high = tensor.aminmax()
    return torch.maximum(-low, high)


def _small_and_alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the positions of tensors that are faster copied together than measured one by one.

    A kernel costs more than the numbers of a small tensor.
    """
    alike: dict[tuple[torch.device, torch.dtype, torch.Size], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if 0 < tensor.numel() <= SMALL:
            alike.setdefault((tensor.device, tensor.dtype, tensor.shape), []).append(i)
    return [places for places in alike.values() if len(places) >= FEW]


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
