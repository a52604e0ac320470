"""Inputs that tell samples apart no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Batch, BatchTensor, DataEntry, DataFlow, Loader, RunStart


@dataclass(kw_only=True)
class ConstantInput(Check):
    """The inputs are all zero, the same for every sample, or the same batch again and again.

    Why: a network that is shown the same input for different targets can only learn their mean.
    Typical reasons are a dataset that ignores its index, a loader that is started anew at each
    step, a preprocessing step that rounds or clamps everything away.

    Silent when: another input varies; the training set is one batch, or the trainer was asked to
    overfit a few; a batch has few different samples (XOR and other toys); the input is one dummy
    value a sample, as in unconditional models, or made up by the step; layers get fewer rows at
    a time than there are samples (one time step, the mean of a set).

    Args:
        samples: Fewest samples in a batch that can be called equal.
        distinct: Fewest different samples in a batch that can be called repeated.
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Print two items, dataset[0] and dataset[1], and two batches: they have to differ. Look for"
        " an index that is not used, next(iter(loader)) inside the step, a cast to integers before"
        " the division (x.byte() // 255)."
    )

    samples: int = 4
    distinct: int = 9
    patience: int = 6
    _loader: Loader = field(default_factory=Loader, init=False, repr=False)
    _before: dict[str, tuple[tuple[float, float], ...]] = field(
        default_factory=dict, init=False, repr=False
    )
    _size: int = field(default=0, init=False, repr=False)
    _constant: bool = field(default=False, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what the loader is."""
        self._loader = obs.loader
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Compare the samples of a batch with each other and with those of the last look."""
        if not obs.tensors:
            return
        inputs = [tensor for tensor in obs.tensors if tensor.input]
        self._size = max((tensor.samples for tensor in inputs), default=0)
        repeated = [self._before.get(tensor.path) == tensor.prints for tensor in inputs]
        self._before = {tensor.path: tensor.prints for tensor in inputs}
        self._constant = False
        tiny = self._loader.known and self._loader.batches <= 1
        if not inputs or tiny or self._loader.overfit or self._size < self.samples:
            return
        where = ", ".join(tensor.path for tensor in inputs)
        verb = "are" if len(inputs) > 1 else "is"
        if all(tensor.features == 1 for tensor in inputs):
            return
        message = ""
        if all(tensor.low == tensor.high for tensor in inputs):
            message = f"Every value of {where} is {inputs[0].low:.4g}."
        elif all(len(set(tensor.prints)) == 1 for tensor in inputs):
            message = f"All {self._size} samples of {where} are the same."
        elif all(repeated) and self._collated and max(map(_distinct, inputs)) >= self.distinct:
            message = f"{where} {verb} the same batch at every step."
        if message:
            self._constant = True
            yield self.finding(obs, message, where=where, samples=self._size)

    def on_data_flow(self, obs: DataFlow) -> Iterator[Finding]:
        """See whether the step has made all samples equal before the first layer."""
        if self._constant or self._size < self.samples or not obs.entries:
            return
        if all(self._same(entry) for entry in obs.entries):
            place = obs.entries[0].place
            message = (
                f"What enters {place} is the same for all {self._size} samples, though the batch"
                " is not: the step loses it on the way."
            )
            yield self.finding(obs, message, where=place, samples=self._size)

    def _same(self, entry: DataEntry) -> bool:
        """Tell whether no column varies; a single one may be a dummy, as may a single row."""
        if not entry.derived or entry.target or entry.rows < self._size:
            return False
        dummy = len(entry.columns) == 1 and not entry.kind.startswith("conv")
        return not dummy and all(column.std == 0.0 for column in entry.columns)

    @property
    def _collated(self) -> bool:
        """Tell whether batches are put together from samples, so that repeats are no design."""
        return self._loader.known and self._loader.batch_size > 1


def _distinct(tensor: BatchTensor) -> int:
    return len(set(tensor.prints))
