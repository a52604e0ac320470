"""Fingerprints of the data: what the loaders say, and the first batches that pass by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_debug.taps.data import named_tensors
from lightning_debug.taps.statistics import sample
from lightning_debug.tracking.model import SAMPLED, fingerprint
from lightning_debug.tracking.secrets import without_secrets

BATCHES = 3
MOST_LOADERS = 8
MOST_TENSORS = 16
MOST_LABELS = 1_000_000
MOST_CLASSES = 50
# Where datasets keep their targets, by custom.
LABELS = ("targets", "labels", "y")


def describe(loaders: Any) -> list[dict[str, Any]]:
    """Return what loaders say about themselves; they are never iterated."""
    return [_loader(loader) for loader in islice(_loaders(loaders), MOST_LOADERS)]


class FirstBatches:
    """Takes fingerprints of the first batches as they pass by; nothing is drawn from a loader.

    What lies on a device is kept there, a few thousand elements of each tensor, until
    :meth:`describe` reads it.
    """

    def __init__(self) -> None:
        self._shapes: dict[str, str] = {}
        self._kept: list[list[Tensor]] = []

    @property
    def waiting(self) -> bool:
        """Tell whether batches are still to come."""
        return len(self._kept) < BATCHES

    def take(self, batch: Any) -> None:
        """Take in a batch of any shape, before the model has it."""
        tensors = dict(islice(named_tensors(batch), MOST_TENSORS))
        if not self._kept:
            self._shapes = {
                without_secrets(path[:200]): f"{tuple(tensor.shape)} {tensor.dtype}"
                for path, tensor in tensors.items()
            }
        with torch.no_grad():
            self._kept.append([_few(tensor) for tensor in tensors.values()])

    def describe(self) -> dict[str, Any]:
        """Return what the batches were."""
        hashes = [fingerprint(tensors) for tensors in self._kept]
        whole = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        self._kept = [[] for _ in self._kept]
        return {"batch": self._shapes, "first_batches": hashes, "fingerprint": whole}


def _few(tensor: Tensor) -> Tensor:
    """Return a copy of at most some thousand elements, evenly chosen."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        return torch.tensor(0)
    return sample(tensor.detach(), SAMPLED).clone()


def _loaders(value: Any, depth: int = 3) -> Any:
    if isinstance(value, DataLoader):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from _loaders(item, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for item in value:
            yield from _loaders(item, depth - 1)
    elif value is not None:
        yield value


def _loader(loader: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"loader": _kind(loader), "batches": _length(loader)}
    if not isinstance(loader, DataLoader):
        return found
    found |= {
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "workers": loader.num_workers,
        "sampler": _kind(loader.sampler),
        "shuffle": "Sequential" not in _kind(loader.sampler),
        "dataset": _kind(loader.dataset),
        "samples": _length(loader.dataset),
    }
    counts = _classes(loader.dataset)
    return found | ({"classes": counts} if counts else {})


def _classes(dataset: Any) -> dict[str, int]:
    """Return how many samples each class has, where a dataset keeps whole numbers as targets.

    Only what lies in its own attributes is read: properties are the user's code.
    """
    rows: Any = None
    while type(dataset) is Subset and rows is None:
        rows, dataset = dataset.indices, dataset.dataset
    labels = _labels(dataset)
    if labels is None:
        return {}
    if rows is not None:
        labels = labels[np.asarray(rows)]
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if labels.size == 0 or low < 0 or high >= MOST_CLASSES * 20:
        return {}
    counts = np.bincount(labels)
    if np.count_nonzero(counts) > MOST_CLASSES:
        return {}
    return {str(label): int(count) for label, count in enumerate(counts) if count}


def _labels(dataset: Any) -> np.ndarray[Any, Any] | None:
    if type(dataset) is TensorDataset:
        whole: list[Any] = [t for t in dataset.tensors if t.ndim == 1]
        values = whole[-1] if whole else None
    else:
        own = getattr(dataset, "__dict__", {})
        values = next((own[name] for name in LABELS if name in own), None)
    if isinstance(values, Tensor):
        few = values.ndim == 1 and len(values) <= MOST_LABELS
        # Of a copy: memory that numpy has seen cannot be resized any more.
        values = values.clone().numpy() if few and values.device.type == "cpu" else None
    short = isinstance(values, (np.ndarray, Sequence)) and 0 < len(values) <= MOST_LABELS
    if not short or isinstance(values, str):
        return None
    if isinstance(values, Sequence) and not all(type(value) is int for value in values):
        return None
    array = np.asarray(values)
    return array if array.ndim == 1 and array.dtype.kind in "iu" else None


def _kind(value: Any) -> str:
    return type(value).__name__[:200]


def _length(value: Any) -> int | None:
    try:
        return len(value) if isinstance(value, Sized) else None
    except Exception:
        # Streams refuse in whatever way they like.
        return None
