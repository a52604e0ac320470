"""Batches, taken apart by sample, whatever they are made of."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_debug.taps.statistics import PLAIN, bare, sample, tensors_in

COUNTED = 4096


class NotApplicableError(Exception):
    """An experiment cannot be made on this model; says why."""


def detached(batch: Any) -> Any:
    """Return a copy of a batch that shares nothing with the original, of whatever class it is.

    Raises:
        NotApplicableError: If something in it cannot be copied.
    """

    def twin(value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(twin(item) for item in value)
        if type(value) is dict:
            return {key: twin(item) for key, item in value.items()}
        if isinstance(value, Tensor):
            return _kept(value, lambda t: t.detach().clone())
        try:
            return copy.deepcopy(value)
        except Exception as error:
            raise NotApplicableError(f"the batch cannot be copied: {error}") from error

    with torch._C.DisableTorchFunction():
        return twin(batch)


def duplicate(value: Any) -> Any:
    """Return a copy whose tensors share no memory, and carry no graph, with the original.

    Raises:
        NotApplicableError: Inside of ``torch.func.vmap`` and the like, where tensors have none.
    """
    if torch._C._are_functorch_transforms_active():
        raise NotApplicableError("the step transforms functions (torch.func)")
    with torch._C.DisableTorchFunction():  # unheard by what follows the user's functions
        return mapped(value, lambda t: t.detach().clone())


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same structure with each tensor changed; other leaves are copied."""
    if isinstance(value, Tensor):
        return _kept(value, change)
    if isinstance(value, Mapping):
        changed = {key: mapped(item, change) for key, item in value.items()}
        return changed if type(value) is dict else _rebuilt(value, changed)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if type(value) in (tuple, list):
        return type(value)(mapped(item, change) for item in value)
    if hasattr(value, "__dict__") and any(isinstance(v, Tensor) for v in vars(value).values()):
        twin = copy.copy(value)
        for name, item in vars(value).items():
            if isinstance(item, Tensor):
                setattr(twin, name, change(item))
        return twin
    return value


def sliceable(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch that have axes.

    Raises:
        NotApplicableError: If there is one that cannot be cut along an axis.
    """
    tensors = list(tensors_in(batch))
    if any(t.is_nested or t.layout is not torch.strided for t in tensors):
        raise NotApplicableError("the batch holds sparse or nested tensors")
    return [tensor for tensor in tensors if tensor.ndim]


def samples(batch: Any) -> int:
    """Return the number of samples; 0 where the tensors do not agree on one.

    They agree where all that have an axis have a first one of the same length.

    Raises:
        NotApplicableError: If there is a tensor that cannot be cut.
    """
    sizes = Counter(tensor.shape[0] for tensor in sliceable(batch))
    return next(iter(sizes)) if len(sizes) == 1 else 0


def take(batch: Any, count: int) -> Any:
    """Return the first ``count`` samples of a batch; the whole of one without samples."""
    size = samples(batch)
    if size <= count or not size:
        return duplicate(batch)

    def first(value: Any) -> Any:
        if type(value) is list and len(value) == size and not isinstance(value[0], Tensor):
            return value[:count]
        if type(value) in (tuple, list):
            return type(value)(first(item) for item in value)
        if type(value) is dict:
            return {key: first(item) for key, item in value.items()}
        return mapped(value, lambda t: t[:count].detach().clone() if t.ndim else t.clone())

    return first(batch)


def widened(value: Any, dtype: torch.dtype) -> Any:
    """Return the same structure with real floating-point tensors in another dtype."""
    return mapped(value, lambda t: t.to(dtype) if t.is_floating_point() else t)


def distinct(tensor: Tensor) -> int:
    """Return how many different values a tensor holds, of a sample of them."""
    return len(set(sample(tensor, COUNTED).tolist()))


def _kept(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a changed tensor that has kept a class of the user's own, and what hangs on it."""
    values = tensor if type(tensor) in PLAIN else bare(tensor)
    if type(values) is type(tensor):
        return change(tensor)
    with torch._C.DisableTorchFunctionSubclass():
        twin: Tensor = change(values).as_subclass(type(tensor))
    twin.__dict__.update(vars(tensor))
    return twin


def _rebuilt(value: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    twin = copy.copy(value)
    try:
        for key, item in changed.items():  # the one way that all of them have
            twin[key] = item  # type: ignore[index]  # UserDict, BatchEncoding, ModelOutput
    except (AttributeError, TypeError):
        return changed
    return twin
