"""What the loaders say about themselves; they are never iterated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_debug.observation import Loader

MOST_INDICES = 2_000_000
MOST_WRAPPED = 8
Indices = npt.NDArray[np.int64]


def describe(training: Any, validation: Any, *, overfit: bool = False) -> Loader:
    """Return what is known of the training loader, and of how validation relates to it."""
    loader = _single(training)
    if loader is None:
        return Loader(overfit=overfit)
    if isinstance(loader.dataset, IterableDataset):
        return Loader(
            iterable=True,
            workers=loader.num_workers,
            overfit=overfit,
            shares=_knows_of_others(loader.dataset),
        )
    other = _single(validation)
    return Loader(
        known=True,
        batches=_length(loader),
        samples=_drawn(loader),
        batch_size=loader.batch_size or 0,
        order=_order(loader),
        repeats=_repeats(loader),
        workers=loader.num_workers,
        overfit=overfit,
        shares=any(map(_knows_of_others, _samplers(loader))),
        shared=0.0 if other is None else _shared(loader, other),
    )


def _single(value: Any) -> DataLoader[Any] | None:
    """Return the one loader in what the trainer holds, if it is one of torch's."""
    while isinstance(value, (list, tuple, Mapping)) and len(value) == 1:
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    return value if isinstance(value, DataLoader) else None


def _length(value: Any) -> int:
    try:
        return len(value) if isinstance(value, Sized) else 0
    except (TypeError, NotImplementedError):
        return 0


def _drawn(loader: DataLoader[Any]) -> int:
    """Return how many samples an epoch draws."""
    return _length(loader.sampler) or _length(loader.dataset)


def _order(loader: DataLoader[Any]) -> str:
    """Return who decides the order: it is ``"own"`` where torch's samplers do not."""
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return "own"
    sampler = loader.sampler
    if type(sampler) is SequentialSampler:
        return "sequential"
    if type(sampler) is DistributedSampler:
        return "random" if sampler.shuffle else "sequential"
    return "random" if type(sampler) in (RandomSampler, SubsetRandomSampler) else "own"


def _repeats(loader: DataLoader[Any]) -> bool:
    """Tell whether an epoch may hold a sample several times; of a sampler of one's own it may."""
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return sampler.replacement or len(sampler) > _length(loader.dataset)
    return _order(loader) == "own"


def _samplers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the samplers of a loader, and those that they wrap."""
    for sampler in (loader.sampler, loader.batch_sampler):
        inner: Any = sampler
        for _ in range(MOST_WRAPPED):
            if inner is None:
                break
            yield inner
            inner = getattr(inner, "sampler", None)


def _knows_of_others(source: Any) -> bool:
    """Tell whether a sampler or dataset gives each process its own, in an order that it draws."""
    return getattr(source, "shuffle", True) is not False and any(
        hasattr(source, name) for name in ("num_replicas", "world_size", "rank", "set_epoch")
    )


def _shared(training: DataLoader[Any], validation: DataLoader[Any]) -> float:
    """Return the share of the validation samples that are training samples; 0 if unknown."""
    (base, trained), (other, validated) = _rows(training), _rows(validation)
    if base is other:
        if trained is None or validated is None or not len(validated):
            return 0.0
        return float(np.isin(validated, trained).mean())
    if isinstance(base, TensorDataset) and isinstance(other, TensorDataset):
        whole = training.dataset is base and validation.dataset is other
        return _shared_memory(base, other) if whole else 0.0
    return 0.0


def _rows(loader: DataLoader[Any]) -> tuple[Dataset[Any], Indices | None]:
    """Return the dataset at the bottom of subsets, and which of its rows are drawn."""
    dataset, sampler = loader.dataset, loader.sampler
    samples = _length(dataset)
    if not 0 < samples <= MOST_INDICES:
        return dataset, None
    rows: Indices | None = None
    if type(sampler) is SubsetRandomSampler:
        rows = np.asarray(list(sampler.indices), dtype=np.int64)
    elif type(sampler) in (SequentialSampler, RandomSampler, DistributedSampler):
        rows = np.arange(samples)
    while type(dataset) is Subset:
        rows = None if rows is None else np.asarray(list(dataset.indices), dtype=np.int64)[rows]
        dataset = dataset.dataset
    return dataset, rows


def _shared_memory(training: TensorDataset, validation: TensorDataset) -> float:
    """Return the share of the rows of one tensor that lie in the memory of another."""
    first, second = training.tensors[0], validation.tensors[0]
    alike = first.stride() == second.stride() and first.shape[1:] == second.shape[1:]
    if first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr() or not alike:
        return 0.0
    row = first.stride(0) if first.ndim else 0
    if row <= 0 or not len(second) or (second.storage_offset() - first.storage_offset()) % row:
        return 0.0
    start = (second.storage_offset() - first.storage_offset()) // row
    common = min(len(first), start + len(second)) - max(0, start)
    return max(0, common) / len(second)
