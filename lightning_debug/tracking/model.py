"""Fingerprints of a model: what it is built of, and what it starts with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from lightning_debug.taps.statistics import sample

MOST_PARTS = 100
# Elements of a tensor that are hashed: all of a small one, evenly chosen ones of a large one.
SAMPLED = 4096


def describe(model: Module) -> dict[str, Any]:
    """Return sizes and fingerprints of a model; its weights are read, in one copy to the host.

    The architecture is told apart by names, classes, shapes, dtypes and what the layers of torch
    say of themselves; the weights by at most 4096 evenly chosen elements of each tensor.
    """
    parameters = {name: p for name, p in model.named_parameters() if not is_lazy(p)}
    buffers = {name: buffer for name, buffer in model.named_buffers() if not is_lazy(buffer)}
    sizes: Counter[str] = Counter()
    for name, parameter in parameters.items():
        sizes[name.partition(".")[0]] += parameter.numel()
    return {
        "architecture": architecture(model),
        "initial_weights": fingerprint([*parameters.values(), *buffers.values()]),
        "modules": sum(1 for _ in model.modules()),
        "parameters": sum(sizes.values()),
        "trainable_parameters": sum(p.numel() for p in parameters.values() if p.requires_grad),
        "buffers": sum(buffer.numel() for buffer in buffers.values()),
        "parts": dict(sizes.most_common(MOST_PARTS)),
        "dtypes": sorted({str(p.dtype) for p in parameters.values()}),
        "devices": sorted({str(p.device) for p in parameters.values()}),
    }


def architecture(model: Module) -> str:
    """Return a fingerprint of what a model is built of, whatever its weights are."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        kind = type(module)
        # Only layers of torch are asked: what a module of the user's says may hold numbers.
        said = module.extra_repr() if kind.__module__.startswith("torch.nn.") else ""
        digest.update(f"{name}|{kind.__qualname__}|{said}\n".encode(errors="replace"))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        line = f"{name}|{_shape(tensor)}|{tensor.dtype}\n"
        digest.update(line.encode(errors="replace"))
    return digest.hexdigest()[:16]


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return a fingerprint of the values of tensors, in their order."""
    digest = hashlib.sha256()
    with torch.no_grad():
        for tensor in on_host([_bytes(tensor) for tensor in tensors]):
            # Of a copy: memory that numpy has seen cannot be resized any more.
            digest.update(tensor.clone().numpy().tobytes())
    return digest.hexdigest()[:16]


def on_host(tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors of bytes on the host; those of a device are copied in one go."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tensors
    found: list[Tensor] = []
    for device in dict.fromkeys(tensor.device for tensor in tensors):
        found.append(torch.cat([tensor for tensor in tensors if tensor.device == device]).cpu())
    return found


def _bytes(tensor: Tensor) -> Tensor:
    """Return some elements of a tensor as bytes; its shape alone where it has no plain memory."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    plain = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
    if not plain or tensor.device.type == "meta" or type(tensor).__name__.startswith("Fake"):
        return torch.tensor(list(_shape(tensor)), dtype=torch.int64).view(torch.uint8)
    values = sample(tensor, SAMPLED).resolve_conj().resolve_neg().contiguous()
    return values.view(torch.uint8) if values.numel() else values.to(torch.uint8)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor; nothing for one that has none yet."""
    try:
        return tuple(tensor.shape)
    except RuntimeError:  # lazy parameters, until the first batch
        return ()
