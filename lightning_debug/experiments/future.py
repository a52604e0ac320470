"""Whether predictions of what comes next can be read off the input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_debug.experiments.batches import distinct, mapped
from lightning_debug.experiments.layout import Samples, innermost
from lightning_debug.experiments.pairs import BY_CLASS
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.trial import Trial, changed, heard, matched
from lightning_debug.observation import FutureLeak, Leak
from lightning_debug.taps.data import named_tensors
from lightning_debug.taps.statistics import tensors_in

SAMPLES = 16
FARTHEST = 64
MATCH = 0.98
FEWEST = 8
# A row of ids has a future of its own; of values there may be one a sample.
FEWEST_OF_IDS = 5
MOST_SOURCES = 8
MOST_COLUMNS = 4096
# Relative to the largest, what rounding in 32 bits may leave between values and a line.
OFF_THE_LINE = 1e-5

Layout = Callable[[Tensor], Tensor]


@dataclass(eq=False, slots=True)
class _Source:
    """A tensor of the batch, laid out as (samples, positions, features).

    Attributes:
        lay: Brings the tensor into this layout, as a view.
        columns: The features that the target is made of.
    """

    name: str
    tensor: Tensor
    lay: Layout
    columns: slice
    values: Tensor

    @property
    def length(self) -> int:
        return self.values.shape[1]


@dataclass(eq=False, slots=True)
class _Match:
    """A target that is a source, some positions later."""

    source: _Source
    shift: int
    pair: int
    lay: Layout
    length: int


def future(replica: Replica, batch: Any, *, step: int, epoch: int) -> FutureLeak:
    """Change the input from the target on, and compare the predictions up to it."""
    replica.evaluating = True
    samples = Samples(replica, batch)
    values = any(t.is_floating_point() for t in tensors_in(batch))
    fewest = FEWEST if values else FEWEST_OF_IDS
    count = replica.load.samples(batch, samples.size, SAMPLES, fewest)
    if count < 2:
        raise NotApplicableError("there are too few samples in the batch")
    search = _Search(replica, samples.pick(list(range(count))), samples.axis)
    return FutureLeak(step=step, epoch=epoch, leaks=tuple(search.leaks()))


class _Search:
    def __init__(self, replica: Replica, batch: Any, axis: int) -> None:
        self._replica, self._batch = replica, batch
        self._base = heard(replica, batch)
        self._count = next(t for t in tensors_in(batch) if t.ndim).shape[axis]
        self._sources = list(self._laid_out(axis))

    def leaks(self) -> Iterator[Leak]:
        """Yield at most one leak of a kind."""
        if not self._base.pairs:
            raise NotApplicableError("no loss compares a prediction with data")
        for index in range(len(self._base.pairs)):
            matches = self._matches(index)
            later = [match for match in matches if match.shift]
            leak = self._ahead(later) if later else None
            leak = leak or (self._copied(matches) if matches and not later else None)
            leak = leak or (None if matches else self._column(index))
            if leak is not None:
                yield leak
                return

    # -- what the data prove ------------------------------------------------------------------

    def _laid_out(self, axis: int) -> Iterator[_Source]:
        for name, tensor in list(named_tensors(self._batch))[:MOST_SOURCES]:
            if tensor.ndim not in (2, 3):
                continue
            for lay in _layouts_of_batch(tensor.ndim, axis):
                values = lay(tensor)
                if values.shape[1] < 3:
                    continue
                yield _Source(name, tensor, lay, slice(None), values.double())
                if values.shape[2] > 1 and tensor.is_floating_point():
                    if _one_hot(values):
                        ids = values.argmax(-1, keepdim=True).double()
                        yield _Source(name, tensor, lay, slice(None), ids)
                    for i in range(min(values.shape[2], 32)):
                        column = values[:, :, i : i + 1].double()
                        yield _Source(name, tensor, lay, slice(i, i + 1), column)

    def _matches(self, index: int) -> list[_Match]:
        pair = self._base.pairs[index]
        given = self._given(pair.target)
        for values, lay in itertools.product(
            given or [pair.target], list(_layouts_of_target(pair.target, self._count))
        ):
            target, counted = lay(values).double(), lay(pair.counted)
            if target.shape[1] < 2:
                continue
            found = [
                _Match(source, shift, index, lay, target.shape[1])
                for source in self._sources
                for shift in _shifts(target, counted, source.values, scaled=not given)
            ]
            if found:
                return found
        return []

    def _given(self, target: Tensor) -> list[Tensor]:
        """Return a target, and what it was in the batch before the step scaled it.

        Nothing where the step has made it of something else.
        """
        if not target.is_floating_point():
            return [target]
        for _, tensor in list(named_tensors(self._batch))[:MOST_SOURCES]:
            if tensor.is_floating_point() and tensor.numel() == target.numel():
                values = tensor.reshape(target.shape)
                if torch.equal(values, target):
                    return [target]
                if _on_lines(values, target):
                    return [target, values]
        return []

    # -- what the model does ------------------------------------------------------------------

    def _ahead(self, matches: list[_Match]) -> Leak | None:
        """Return a leak of the future, if all inputs that hold the target leak it."""
        leaks: list[tuple[_Match, int, Any]] = []
        tensors: dict[int, list[_Match]] = {}
        for match in matches:
            tensors.setdefault(id(match.source.tensor), []).append(match)
        for same in tensors.values():
            match, leaked, read = same[0], None, False
            for position in sorted({match.length // 2, match.length // 4, 3 * match.length // 4}):
                cut = position + match.shift
                if not 0 < cut < match.source.length:
                    continue
                batch = self._exchanged(match.source, slice(cut, None))
                where = self._differs(match, batch)
                read = read or bool(where.any())
                if not bool(where[:, : position + 1].any()):
                    continue
                # Both sides of a gap may be seen, as long as the gap is not.
                alone = self._exchanged(match.source, slice(cut, cut + 1))
                if bool(self._differs(match, alone)[:, position].any()):
                    leaked = position, batch
                    break
            if leaked is not None:
                leaks.append((match, *leaked))
            elif read:
                return None
        if not leaks:
            return None
        match, position, batch = leaks[0]
        pair = self._base.pairs[match.pair]
        place, module = self._culprit(batch, match) or (pair.place, "")
        return Leak(
            kind="future",
            source=match.source.name,
            shift=match.shift,
            position=position,
            length=match.length,
            place=place,
            module=module,
            function=pair.function,
        )

    def _copied(self, matches: list[_Match]) -> Leak | None:
        """Return a leak if a causal model has its own input as the target."""
        for match in matches:
            pair, source = self._base.pairs[match.pair], match.source
            ids = pair.function in BY_CLASS and not source.tensor.is_floating_point()
            middle = match.length // 2
            if not ids or middle < 1 or middle + 1 >= source.length:
                continue
            now = self._differs(match, self._exchanged(source, slice(middle, middle + 1)))
            if not bool(now[:, middle].any()) or bool(now[:, :middle].any()):
                continue  # not read, or not causal
            after = self._differs(match, self._exchanged(source, slice(middle + 1, None)))
            before = self._differs(match, self._exchanged(source, slice(0, middle)))
            if not bool(after[:, : middle + 1].any()) and bool(before[:, middle:].any()):
                return Leak(
                    kind="copy",
                    source=source.name,
                    position=middle,
                    length=match.length,
                    place=pair.place,
                    function=pair.function,
                )
        return None

    def _column(self, index: int) -> Leak | None:
        """Return a leak if a target is one value of a table, or the last step of a window."""
        pair = self._base.pairs[index]
        if pair.target.numel() != self._count or not pair.target.is_floating_point():
            return None
        if distinct(pair.target) < FEWEST:
            return None
        tensors = list(named_tensors(self._batch))[:MOST_SOURCES]
        given = self._given(pair.target) or [pair.target]
        for values, (name, tensor) in itertools.product(given, tensors):
            target = values.reshape(-1).double()
            if tensor.ndim not in (2, 3) or not tensor.is_floating_point():
                continue
            if tensor.shape[0] != self._count or tensor[0].numel() not in range(2, MOST_COLUMNS):
                continue
            table = (tensor if tensor.ndim == 2 else tensor[:, -1]).double()
            same = (table == target[:, None]).all(0).nonzero().flatten().tolist()
            if not same:
                continue
            view = (slice(None), same[0]) if tensor.ndim == 2 else (slice(None), -1, same[0])
            twin = tensor.clone()
            twin[view] = twin[view].roll(1, 0)
            after = self._run(self._with(tensor, twin))
            if bool(changed(pair.prediction, after.pairs[index].prediction).any()):
                return Leak(
                    kind="column",
                    source=name,
                    position=same[0],
                    length=table.shape[1],
                    scaled=not torch.equal(values, pair.target),
                    place=pair.place,
                    function=pair.function,
                )
        return None

    def _exchanged(self, source: _Source, positions: slice) -> Any:
        """Return the batch with some positions of a tensor taken from other samples."""
        twin = source.tensor.clone()
        values = source.lay(twin)
        values[:, positions, source.columns] = values[:, positions, source.columns].roll(1, 0)
        return self._with(source.tensor, twin)

    def _with(self, tensor: Tensor, twin: Tensor) -> Any:
        return mapped(self._batch, lambda t: twin if t is tensor else t)

    def _run(self, batch: Any) -> Trial:
        trial = heard(self._replica, batch)
        if not self._base.like(trial):
            raise NotApplicableError("which modules run depends on the values")
        return trial

    def _differs(self, match: _Match, batch: Any) -> Tensor:
        """Return at which samples and counted positions a prediction is another one."""
        pair, twin = self._base.pairs[match.pair], self._run(batch).pairs[match.pair]
        where = changed(pair.prediction, twin.prediction)
        if where.ndim > pair.target.ndim:
            where = where.any(-1)
        return (match.lay(where) & match.lay(pair.counted)).any(-1)

    def _culprit(self, batch: Any, match: _Match) -> tuple[str, str] | None:
        """Return path and class of the innermost module whose output changes before its input."""
        before = heard(self._replica, self._batch, nested=True)
        after = heard(self._replica, batch, nested=True)
        if not before.like(after):
            return None
        longest = match.source.length
        lengths = {longest, longest - 1, longest + 1, match.length} - {self._count}
        found = []
        for left, right in zip(before.calls, after.calls, strict=True):
            if left.out is None or right.out is None:
                continue
            start = self._earliest((left.args, left.kwargs), (right.args, right.kwargs), lengths)
            end = self._earliest(left.out, right.out, lengths)
            if end < start < math.inf:
                found.append(left)
        inner = innermost(found)
        return (inner[0].path or "model", type(inner[0].module).__name__) if inner else None

    def _earliest(self, before: Any, after: Any, lengths: set[int]) -> float:
        """Return the first position at which two values differ."""
        first = math.inf
        for left, right in matched(before, after):
            where = changed(left, right)
            axes = [i for i, length in enumerate(left.shape) if length in lengths]
            if not bool(where.any()):
                continue
            if len(axes) == 1:
                first = min(first, _first(where.movedim(axes[0], 0)))
                continue
            flat = [
                s for s in left.shape[:1] if s % self._count == 0 and s // self._count in lengths
            ]
            if flat and not axes:
                rows = where.flatten(1).any(1) if where.ndim > 1 else where
                ways = (rows.view(self._count, -1).T, rows.view(-1, self._count))
                first = min(first, max(map(_first, ways)))
        return first


def _first(where: Tensor) -> float:
    """Return the first index along axis 0 at which anything is true."""
    return float(where.flatten(1).any(1).nonzero()[0])


def _shifts(target: Tensor, counted: Tensor, source: Tensor, *, scaled: bool) -> list[int]:
    """Return by how much a target is ahead of a source; nothing if it is another thing.

    A target that is the source itself, as that of an autoencoder, is ahead by 0, whatever else
    the values allow because they repeat themselves. ``scaled``: it may have been made of the
    source by the step, with another scale and offset.
    """
    if target.shape[2] != source.shape[2]:
        return []
    length, longest = target.shape[1], source.shape[1]
    for shift in range(min(longest - 1, FARTHEST)):
        common = min(length, longest - shift)
        if common < 2 or length - common > max(shift, 1):
            continue
        valid = counted[:, :common]
        left = target[:, :common][valid]
        if left.numel() < FEWEST or left.numel() < MATCH * int(counted.sum()) * common / length:
            continue
        if distinct(left) < (2 if left.numel() >= 4 * FEWEST else 3):
            continue
        right = source[:, shift : shift + common][valid]
        if float((left == right).double().mean()) >= MATCH:
            return [shift]
        whole = scaled and bool(valid.all()) and distinct(left) >= FEWEST
        if whole and _on_lines(source[:, shift : shift + common], target[:, :common]):
            return [shift]
    return []


def _on_lines(values: Tensor, others: Tensor) -> bool:
    """Tell whether each column of a table is that of another, but for its scale and offset."""
    columns = values.shape[-1] if values.ndim > 1 else 1
    left, right = (t.reshape(-1, columns).double() for t in (values, others))
    left, right = left - left.mean(0), right - right.mean(0)
    if len(left) < FEWEST or not bool((left.any(0) & right.any(0)).all()):
        return False
    slope = (left * right).sum(0) / left.square().sum(0)
    off = (right - slope * left).abs().amax(0)
    return bool((off <= OFF_THE_LINE * right.abs().amax(0)).all())


def _one_hot(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all()) and bool((values.sum(-1) == 1).all())


def _layouts_of_batch(dimensions: int, axis: int) -> list[Layout]:
    """Return the ways to see a tensor of a batch as (samples, positions, features)."""
    if dimensions == 2:
        return [lambda t: t.movedim(axis, 0).unsqueeze(-1)]
    if axis:
        return [lambda t: t.movedim(1, 0)]
    return [lambda t: t, lambda t: t.movedim(1, 2)]


def _layouts_of_target(target: Tensor, count: int) -> Iterator[Layout]:
    """Yield the ways in which a target may be laid out as (samples, positions, features)."""
    rows = target.shape[0]
    if target.ndim >= 2 and rows == count:
        if target.ndim == 2:
            yield lambda t: t.unsqueeze(-1)
        elif target.ndim == 3:
            yield lambda t: t
            yield lambda t: t.movedim(1, 2)
    if target.ndim in (2, 3) and target.shape[1] == count:
        yield lambda t: t.transpose(0, 1).reshape(count, t.shape[0], -1)
    if target.ndim in (1, 2) and rows % count == 0 and rows > count:
        yield lambda t: t.reshape(count, rows // count, -1)
        yield lambda t: t.reshape(rows // count, count, -1).transpose(0, 1)
