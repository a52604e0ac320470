"""Where the samples lie in a batch and in what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_debug.experiments.batches import mapped, sliceable
from lightning_debug.experiments.calls import Call
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.taps.statistics import tensors_in


class Samples:
    """The samples of a batch: along which axis, and how many.

    The batch size of the loader tells, because in a batch with sequences the first axis may as
    well be time.

    Args:
        replica: Knows the loader.
        batch: As the training step gets it.

    Raises:
        NotApplicableError: If the batch is not made of samples, as with graphs.
    """

    def __init__(self, replica: Replica, batch: Any) -> None:
        self.batch = batch
        tensors = sliceable(batch)
        if not tensors:
            raise NotApplicableError("the batch holds no tensors")
        loader = getattr(replica.module.__dict__.get("_trainer"), "train_dataloader", None)
        sizes = _batch_sizes(loader)
        firsts = {t.shape[0] for t in tensors}
        seconds = {t.shape[1] for t in tensors if t.ndim > 1}
        self.axis = 0
        # Nobody knows the size: one number a sample, or tensors that share the first axis only.
        plain = not sizes and (len(seconds) != 1 or any(t.ndim == 1 for t in tensors))
        if len(firsts) == 1 and (firsts <= sizes or plain):
            (self.size,) = firsts
        elif len(seconds) == 1 and seconds <= sizes and all(t.ndim > 1 for t in tensors):
            self.axis = 1
            (self.size,) = seconds
        else:
            raise NotApplicableError("the batch is not made of samples")

    def pick(self, indices: list[int]) -> Any:
        """Return a batch of some of the samples."""
        if any(i >= self.size for i in indices):
            raise NotApplicableError("there are too few samples in the batch")
        where = torch.tensor(indices)

        def picked(tensor: Tensor) -> Tensor:
            return tensor.index_select(self.axis, where.to(tensor.device))

        return self._along(self.batch, indices, picked)

    def _along(self, value: Any, indices: list[int], change: Callable[[Tensor], Tensor]) -> Any:
        # Lists with an item a sample: names, texts.
        if type(value) in (list, tuple) and not any(True for _ in tensors_in(value)):
            many = len(value) == self.size
            return type(value)(value[i] for i in indices) if many else value
        if type(value) in (list, tuple):
            return type(value)(self._along(item, indices, change) for item in value)
        if type(value) is dict:
            return {key: self._along(item, indices, change) for key, item in value.items()}
        return mapped(value, lambda t: change(t.detach()) if t.ndim else t.detach().clone())


def scaling(first: Tensor, second: Tensor, sizes: tuple[int, int]) -> list[int] | None:
    """Return the axes that grow with the number of samples; None if other axes do not agree."""
    if first.ndim != second.ndim:
        return None
    found = []
    for axis, (long, short) in enumerate(zip(first.shape, second.shape, strict=True)):
        if long == short:
            continue
        if long * sizes[1] != short * sizes[0]:
            return None
        found.append(axis)
    return found


def innermost(calls: Sequence[Call]) -> list[Call]:
    """Return the calls inside which none of the others ran."""
    above = set()
    for call in calls:
        parent = call.parent
        while parent is not None:
            above.add(id(parent))
            parent = parent.parent
    return [call for call in calls if id(call) not in above]


def _batch_sizes(loader: Any) -> set[int]:
    """Return the sizes that a batch can have; nothing where that is not known."""
    if isinstance(loader, Mapping):
        return set().union(*map(_batch_sizes, loader.values()))
    if isinstance(loader, (list, tuple)) and loader and hasattr(loader[0], "batch_size"):
        return set().union(*map(_batch_sizes, loader))
    if not hasattr(loader, "batch_size"):
        return set()
    size = loader.batch_size
    if size is None:
        sampler = getattr(loader, "batch_sampler", None)
        if sampler is None:
            raise NotApplicableError("the loader makes no batches of samples")
        size = getattr(sampler, "batch_size", None)
    if not isinstance(size, int):
        return set()
    try:
        whole = len(loader.dataset)
    except (TypeError, AttributeError):
        return {size}
    return {min(size, whole), whole % size or size}
