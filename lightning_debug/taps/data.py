"""What the batches hold: finiteness, fingerprints, and how samples relate to each other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_debug.observation import (
    Batch,
    BatchTensor,
    BrokenTensor,
    Comparison,
    EpochStart,
    ValidationPrints,
)
from lightning_debug.taps import fingerprints, relations
from lightning_debug.taps.entries import EntryTap
from lightning_debug.taps.ranks import Batchmark
from lightning_debug.taps.relations import LEAST
from lightning_debug.taps.statistics import ACTIVATION_SAMPLE, dense, sample, total
from lightning_debug.taps.transfer import Entry, Ledger

MOST_TENSORS = 16
COUNTED = 65536
START_TENSORS = 4
START_BATCHES = 4
START_EPOCHS = 3
SEARCHED = 2000
PENDING = 256
WORKER_LOOKS = 10
VALIDATION_BATCHES = 16
# Values of one byte agree in one pair of 256: in so many pairs they do not fail to.
APART_PAIRS = 4000


def named_tensors(value: Any, path: str = "batch", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch with their paths, such as ``batch['x']``, in order."""
    if isinstance(value, Tensor):
        yield path, value
    elif depth and isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        for i, item in enumerate(value):
            where = f"{path}.{names[i]}" if names else f"{path}[{i}]"
            yield from named_tensors(item, where, depth - 1)
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{path}[{key!r}]", depth - 1)
    elif depth and hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from named_tensors(getattr(value, name, None), f"{path}.{name}", depth - 1)
    elif depth and hasattr(value, "__dict__"):
        for name, item in vars(value).items():  # a graph, and what else knows its tensors by name
            if isinstance(item, Tensor):
                yield f"{path}.{name}", item


@dataclass(slots=True)
class _Draft:
    """The numbers of one tensor of the batch."""

    path: str
    integer: bool
    samples: int
    features: int
    finite: Entry = field(default_factory=lambda: Entry(0.0))
    bad: Entry = field(default_factory=lambda: Entry(0.0))
    low: Entry = field(default_factory=lambda: Entry(math.nan))
    high: Entry = field(default_factory=lambda: Entry(math.nan))
    adjacent: Entry = field(default_factory=lambda: Entry(math.nan))
    prints: list[Entry] = field(default_factory=list)
    labels: list[Entry] = field(default_factory=list)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.finite.value)

    @property
    def is_label(self) -> bool:
        return self.integer and self.features == 1

    def observation(self, *, input: bool, target: bool) -> BatchTensor:
        """Return what is known now that the numbers have arrived."""
        return BatchTensor(
            path=self.path,
            input=input,
            target=target,
            integer=self.integer,
            samples=self.samples,
            features=self.features,
            bad=0 if self.is_finite else max(1, int(self.bad.value)),
            low=self.low.value,
            high=self.high.value,
            prints=_pairs(self.prints),
            labels=tuple(entry.value for entry in self.labels),
            adjacent=self.adjacent.value,
        )


@dataclass(slots=True)
class _Pairs:
    """A comparison whose numbers are on their way."""

    pairs: int
    numbers: list[Entry]

    def observation(self) -> Comparison:
        alike, others, spread = (entry.value for entry in self.numbers)
        return Comparison(pairs=self.pairs, alike=alike, others=others, spread=spread)


@dataclass(slots=True)
class _Passed:
    """A batch between the looks: where it was, and one number for each of its tensors."""

    step: int
    epoch: int
    index: int
    paths: tuple[str, ...]
    numbers: Tensor
    start: bool
    entries: list[Entry] = field(default_factory=list)


class BatchTap:
    """Measures the batch of a look, and the few batches between looks that are worth it.

    Those are the first batches of the first epochs, and all of them while a bad one is searched
    for; their numbers stay on the device until the next look.
    """

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._neighbours: _Pairs | None = None
        self._workers: _Pairs | None = None
        self._worker_labels: _Pairs | None = None
        self._before: dict[int, Tensor] = {}
        self._position = (-1, -1)
        self._passed: deque[_Passed] = deque(maxlen=PENDING)
        self._sent: list[_Passed] = []
        self._epochs: list[int] = []
        self._searched = -1
        self._looks = 0
        self._inputs: AbstractSet[int] = frozenset()
        self._targets: AbstractSet[int] = frozenset()

    # -- between looks ------------------------------------------------------------------------

    def search(self) -> None:
        """Measure the finiteness of every batch from now on, for a while."""
        if self._searched < 0:
            self._searched = 0

    def pass_by(self, batch: Any, index: int, step: int, epoch: int) -> None:
        """See a batch, whether or not there is a look at it."""
        if index < START_BATCHES:
            if epoch not in self._epochs and len(self._epochs) < START_EPOCHS:
                self._epochs.append(epoch)
            if epoch in self._epochs:
                self._keep(batch, index, step, epoch, start=True)
        if 0 <= self._searched < SEARCHED:
            self._searched += 1
            self._keep(batch, index, step, epoch, start=False)

    def _keep(self, batch: Any, index: int, step: int, epoch: int, *, start: bool) -> None:
        paths: list[str] = []
        numbers: list[Tensor] = []
        with torch.no_grad():
            for path, tensor in named_tensors(batch):
                values = dense(tensor)
                if len(paths) == (START_TENSORS if start else MOST_TENSORS):
                    break
                if start and _sampled(tensor):
                    paths.append(path)
                    pairs = fingerprints.prints(fingerprints.rows(tensor))
                    # The order within the batch counts too.
                    place = torch.arange(len(pairs), device=pairs.device, dtype=pairs.dtype)
                    numbers.append((pairs[:, 0] * torch.cos(place)).sum().to(torch.float32))
                elif not start and values is not None:
                    paths.append(path)
                    numbers.append(total(values).to(torch.float32))
            if numbers:
                row = torch.stack(numbers)
                self._passed.append(_Passed(step, epoch, index, tuple(paths), row, start))

    # -- at a look ----------------------------------------------------------------------------

    def measure(self, batch: Any, index: int, epoch: int, ledger: Ledger) -> list[Tensor]:
        """Note the numbers of a batch of any shape; return the tensors that were measured."""
        named = [(path, t) for path, t in named_tensors(batch) if not t.is_nested][:MOST_TENSORS]
        tensors = [tensor for _, tensor in named]
        self._looks += 1
        self._neighbours = self._workers = self._worker_labels = None
        with torch.no_grad():
            self._drafts = [self._measure(path, tensor, ledger) for path, tensor in named]
            rows = {i: fingerprints.rows(t) for i, t in enumerate(tensors) if _sampled(t)}
            for i, values in rows.items():
                self._print(self._drafts[i], tensors[i], values, ledger)
            self._order(tensors, rows, ledger)
            self._relate(rows, ledger)
            if self._looks <= WORKER_LOOKS:
                self._compare_workers(rows, (epoch, index), ledger)
            else:
                self._before = {}
        return tensors

    def flush(self, ledger: Ledger) -> None:
        """Send what was kept since the last look."""
        self._sent = list(self._passed)
        self._passed.clear()
        for passed in self._sent:
            passed.entries = ledger.note_row(passed.numbers)

    @property
    def finite(self) -> bool:
        """Tell whether all values of the batch are finite."""
        return all(draft.is_finite for draft in self._drafts)

    def observation(
        self, entries: EntryTap, step: int, epoch: int, index: int, harmful: bool
    ) -> Batch:
        """Return all that was measured; ``entries`` knows what became of the batch."""
        return Batch(
            step=step,
            epoch=epoch,
            index=index,
            finite=self.finite,
            harmful=harmful,
            tensors=self.tensors(entries.inputs, entries.targets),
            neighbours=_arrived(self._neighbours),
            workers=_arrived(self._workers),
            worker_labels=_arrived(self._worker_labels),
            targets=entries.target_calls(),
            picked=entries.picked,
            broken=self.broken(),
            starts=self.starts(),
        )

    def rest(self, step: int, epoch: int) -> Batch:
        """Return what was kept since the last look of the run."""
        return Batch(step=step, epoch=epoch, broken=self.broken(), starts=self.starts())

    def mark(self) -> Batchmark:
        """Return what tells the batch of this look apart, once its numbers have arrived."""
        varied = [d for d in self._drafts if len({entry.value for entry in d.prints}) > 2]
        # Two samples of one class have the same target; two samples do not have the same number.
        labels = [d for d in varied if d.labels and not d.integer]
        return Batchmark(whole=_in_order(varied), targets=_in_order(labels))

    def tensors(self, inputs: set[int], targets: set[int]) -> tuple[BatchTensor, ...]:
        """Return the tensors of the batch, with the positions of those that were used."""
        self._inputs, self._targets = frozenset(inputs), frozenset(targets)
        return tuple(
            draft.observation(input=i in inputs, target=i in targets)
            for i, draft in enumerate(self._drafts)
        )

    def starts(self) -> tuple[EpochStart, ...]:
        """Return the first batches of epochs that were sent."""
        return tuple(
            EpochStart(
                epoch=passed.epoch,
                index=passed.index,
                prints={
                    path: entry.value
                    for path, entry in zip(passed.paths, passed.entries, strict=True)
                },
            )
            for passed in self._sent
            if passed.start
        )

    def broken(self) -> tuple[BrokenTensor, ...]:
        """Return the tensors that were found in the search."""
        return tuple(
            BrokenTensor(path=path, step=passed.step, epoch=passed.epoch, index=passed.index)
            for passed in self._sent
            if not passed.start
            for path, entry in zip(passed.paths, passed.entries, strict=True)
            if not math.isfinite(entry.value)
        )

    def _measure(self, path: str, tensor: Tensor, ledger: Ledger) -> _Draft:
        values = dense(tensor)
        per_sample = tensor.numel() // max(1, len(tensor)) if tensor.ndim else 1
        integer = not tensor.is_floating_point() and not tensor.is_complex()
        draft = _Draft(path, integer, len(tensor) if tensor.ndim else 1, per_sample)
        if values is not None:
            draft.finite = ledger.note(total(values))
            draft.bad = ledger.note((~torch.isfinite(sample(values, COUNTED))).sum())
        return draft

    def _print(self, draft: _Draft, tensor: Tensor, rows: Tensor, ledger: Ledger) -> None:
        """Note the range of a tensor and what identifies its samples."""
        picked = sample(tensor.detach(), ACTIVATION_SAMPLE)
        draft.low = ledger.note(picked.amin().to(torch.float32))
        draft.high = ledger.note(picked.amax().to(torch.float32))
        draft.prints = ledger.note_row(fingerprints.prints(rows).reshape(-1))
        if draft.features == 1:
            draft.labels = ledger.note_row(rows.reshape(-1))

    def _order(self, tensors: Sequence[Tensor], rows: Mapping[int, Tensor], ledger: Ledger) -> None:
        """Compare neighbouring samples with any two; only those with the same labels."""
        labels = [
            values for i, values in rows.items() if self._drafts[i].is_label and len(values) > 1
        ]
        for i, values in rows.items():
            if len(values) < LEAST:
                continue
            draft = self._drafts[i]
            alike = torch.ones(len(values), len(values), dtype=torch.bool, device=values.device)
            for label in labels if draft.features > 1 else ():
                if len(label) == len(values):
                    alike = alike & (label == label.T)
            draft.adjacent = ledger.note(relations.adjacent(values, tensors[i].shape, alike))

    def _relate(self, rows: Mapping[int, Tensor], ledger: Ledger) -> None:
        """Compare the targets of nearest neighbours; which is which is known from the last look."""
        drafts = self._drafts
        inputs = [i for i in rows if i in self._inputs - self._targets and not drafts[i].integer]
        targets = [i for i in rows if i in self._targets - self._inputs and drafts[i].features == 1]
        if len(targets) != 1 or not inputs:
            return
        target = rows[targets[0]]
        n = len(target)
        if n < 2 * LEAST or any(len(rows[i]) != n for i in inputs):
            return
        features = torch.cat([relations.standardised(rows[i]) for i in inputs], dim=1)
        classes = drafts[targets[0]].integer
        alike = relations.label_likeness(target, target, classes=classes)
        self._neighbours = _Pairs(n, ledger.note_row(relations.neighbours(features, alike)))

    def _compare_workers(
        self, rows: Mapping[int, Tensor], position: tuple[int, int], ledger: Ledger
    ) -> None:
        """Compare the batch with the one before it, which another worker has made."""
        before = self._before if self._position == (position[0], position[1] - 1) else {}
        self._position = position
        few = [i for i, values in rows.items() if i < START_TENSORS and len(values) >= 2 * LEAST]
        self._before = {i: rows[i] for i in few}
        for i in few:
            if i not in before or before[i].shape != rows[i].shape:
                continue
            if self._drafts[i].features == 1 and self._worker_labels is None:
                alike = relations.label_likeness(before[i], rows[i], classes=False)
                row = relations.compare(alike.diagonal(), alike)
                self._worker_labels = _Pairs(len(alike), ledger.note_row(row))
            elif self._drafts[i].features > 1 and not self._workers and i not in self._targets:
                alike = relations.likeness(before[i], rows[i])
                row = relations.compare(alike.diagonal(), alike)
                self._workers = _Pairs(len(alike), ledger.note_row(row))


def _in_order(drafts: Sequence[_Draft]) -> float:
    """Return a number that other samples, or these in another order, do not have."""
    numbers = [entry.value for draft in drafts for entry in draft.prints]
    return math.fsum(v * math.cos(i) for i, v in enumerate(numbers, 1)) if numbers else math.nan


class ValidationPrintTap:
    """Takes fingerprints of the first validation batches, in ever fewer passes."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._passes = 0
        self._on = False
        self._rows: dict[tuple[int, str], list[Entry]] = {}
        self._apart: dict[tuple[int, str], Tensor] = {}
        self._pairs: dict[tuple[int, str], int] = {}

    def begin(self) -> None:
        """Start a pass; the first, second, fourth, eighth ... are measured."""
        self._passes += 1
        self._on = self._passes & (self._passes - 1) == 0
        self._ledger, self._rows = Ledger(), {}
        self._apart, self._pairs = {}, {}

    def batch(self, batch: Any, index: int, loader: int) -> None:
        """Take in a batch."""
        if not self._on or index >= VALIDATION_BATCHES or loader >= START_TENSORS:
            return
        with torch.no_grad():
            for path, tensor in list(named_tensors(batch))[:START_TENSORS]:
                if _sampled(tensor):
                    rows, key = fingerprints.rows(tensor), (loader, path)
                    noted = self._rows.setdefault(key, [])
                    noted.extend(self._ledger.note_row(fingerprints.prints(rows).reshape(-1)))
                    if tensor.is_floating_point():
                        self._compare(key, rows)

    def _compare(self, key: tuple[int, str], rows: Tensor) -> None:
        """Note in which columns the samples of a batch agree only where all of them do."""
        here = fingerprints.apart(rows)
        before = self._apart.get(key, here)
        same = before.shape == here.shape
        self._apart[key] = before & here if same else torch.zeros_like(here)
        self._pairs[key] = self._pairs.get(key, 0) + len(rows) * (len(rows) - 1) // 2

    def prints(self) -> tuple[ValidationPrints, ...]:
        """Return the fingerprints of the pass."""
        apart = {
            key: self._ledger.note(columns.any().to(torch.float32))
            for key, columns in self._apart.items()
            if len(columns) > 1 and self._pairs[key] >= APART_PAIRS
        }
        self._ledger.send()
        self._ledger.settle()
        found = tuple(
            ValidationPrints(
                path=path,
                loader=loader,
                prints=_pairs(entries),
                apart=(loader, path) in apart and apart[loader, path].value == 1.0,
            )
            for (loader, path), entries in self._rows.items()
        )
        self._rows, self._apart, self._pairs = {}, {}, {}
        return found


def _sampled(tensor: Tensor) -> bool:
    """Tell whether a tensor holds samples along its first axis, in memory that can be read."""
    plain = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
    return (
        plain
        and tensor.ndim > 0
        and tensor.numel() > 0
        and tensor.device.type != "meta"
        and not tensor.is_complex()
        and not hasattr(tensor, "to_local")
    )


def _arrived(pairs: _Pairs | None) -> Comparison | None:
    return pairs.observation() if pairs else None


def _pairs(entries: Sequence[Entry]) -> tuple[tuple[float, float], ...]:
    values = [entry.value for entry in entries]
    return tuple(zip(values[::2], values[1::2], strict=True))
