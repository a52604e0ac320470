"""Whether the outputs depend on each of the inputs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_debug.experiments.batches import distinct, duplicate, mapped
from lightning_debug.experiments.calls import Call
from lightning_debug.experiments.layout import Samples
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.trial import Trial, changed, heard, matched
from lightning_debug.observation import IgnoredInput, InputUse
from lightning_debug.taps.data import named_tensors
from lightning_debug.taps.statistics import tensors_in

SAMPLES, FEWEST = 8, 5
MOST_ARGUMENTS = 6
GROUPS = 8
SHARE = 0.25
MOST_COLUMNS = 65_536
MOST_TABLES = 2


def inputs(replica: Replica, batch: Any, *, step: int, epoch: int) -> InputUse:
    """Exchange inputs between samples, and see whether anything changes.

    In train mode and in eval mode: a part may be used in one of them only.
    """
    samples = Samples(replica, batch)
    count = replica.load.samples(batch, samples.size, SAMPLES, FEWEST)
    if count < 3:
        raise NotApplicableError("there are too few samples in the batch")
    search = _Search(replica, samples, count)
    ignored = (*search.arguments(), *search.parts())
    return InputUse(step=step, epoch=epoch, ignored=ignored)


class _Search:
    def __init__(self, replica: Replica, samples: Samples, count: int) -> None:
        self._replica, self._samples, self._count = replica, samples, count
        self._batch = samples.pick(list(range(count)))
        self._base = heard(replica, self._batch)

    # -- whole arguments of modules -------------------------------------------------------------

    def arguments(self) -> list[IgnoredInput]:
        """Return arguments that no call of a module uses."""
        used: dict[tuple[str, str], bool] = {}
        for call in self._base.outermost:
            for name, value in list(self._testable(call))[:MOST_ARGUMENTS]:
                key = call.path, name
                used[key] = used.get(key, False) or self._uses(call, name, value)
        return [IgnoredInput(source=n, place=path) for (path, n), yes in used.items() if not yes]

    def _testable(self, call: Call) -> Iterator[tuple[str, Tensor]]:
        """Yield arguments by name that hold data and differ between samples."""
        named = list(_named(call))
        sequences = [t for _, t in named if t.ndim == 3 or (t.ndim == 2 and not _real(t))]
        for name, value in named:
            if id(value) in self._base.learned or self._count not in value.shape:
                continue
            if (
                value.dtype is torch.bool
                or _two_valued(value)
                or torch.equal(value, _rolled(value, self._count))
            ):
                continue
            whole = value.ndim == 1 and not _real(value)
            if whole and (self._is_index(value) or _may_be_lengths(value, sequences)):
                continue
            yield name, value

    def _uses(self, call: Call, name: str, value: Tensor) -> bool:
        for evaluating in (False, True):
            self._replica.evaluating = evaluating
            try:
                before = self._run(call.module, call.args, call.kwargs)
                exchanged = _rolled(value, self._count)
                if not _same(before, self._run(*_replaced(call, value, exchanged))):
                    return True
                if not _same(before, self._run(call.module, call.args, call.kwargs)):
                    return True  # it gives something else each time
            except NotApplicableError:
                return True
        return _real(value) and self._reached(call, value)

    def _run(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a module of the copy again; return what it gives, without a graph."""
        return self._replica.forward(lambda: duplicate(self._replica.run(module, args, kwargs)))

    def _reached(self, call: Call, value: Tensor) -> bool:
        """Tell whether gradients pass to an argument: those of a hard decision may."""
        self._replica.evaluating = False
        leaf = value.double().clone().requires_grad_()
        module, args, kwargs = _replaced(call, value, leaf.view_as(leaf))
        self._replica.restore()
        try:
            out = module(*args, **kwargs)
            outs = [t for t in tensors_in(out) if t.requires_grad and _real(t)]
            weighted = [t * torch.arange(t.numel(), device=t.device).view_as(t).cos() for t in outs]
            if not weighted:
                return False
            total = torch.stack([t.sum() for t in weighted]).sum()
            (gradient,) = torch.autograd.grad(total, [leaf], allow_unused=True)
        except RuntimeError:
            return True  # nothing can be said of it
        return gradient is not None and bool((gradient != 0).any())

    def _is_index(self, value: Tensor) -> bool:
        """Tell whether an argument numbers the samples: no two have the same."""
        for tensor in tensors_in(self._samples.batch):
            if tensor.ndim == 1 and torch.equal(tensor[: self._count].to(value.dtype), value):
                return len(set(tensor.tolist())) == len(tensor)
        return False

    # -- parts of tensors of the batch ----------------------------------------------------------

    def parts(self) -> list[IgnoredInput]:
        """Return columns that change nothing, and sequences of which one position counts."""
        if self._samples.axis:
            return []
        found: list[IgnoredInput | None] = []
        self._replica.evaluating = True
        self._base = heard(self._replica, self._batch)
        if not self._base.losses and not self._base.pairs:
            return []
        few = [(n, t) for n, t in named_tensors(self._batch) if t.ndim in (2, 3)][:MOST_TABLES]
        for name, tensor in few:
            moved = self._effect(tensor, torch.ones_like(tensor, dtype=torch.bool))
            if moved != (True, True):
                continue  # it goes into no module, or the step as a whole does without it
            if tensor.ndim == 2 and _real(tensor):
                found.append(self._columns(name, tensor))
            elif tensor.ndim == 3 or not _two_valued(tensor):
                found.append(self._positions(name, tensor))
        return [ignored for ignored in found if ignored is not None]

    def _columns(self, name: str, tensor: Tensor) -> IgnoredInput | None:
        """Return the longest block of columns that change nothing, if it is long."""
        size = tensor.shape[1]
        varying = (tensor != tensor[:1]).any(0)
        if not 4 <= size <= MOST_COLUMNS:
            return None

        def still(first: int, last: int) -> bool:
            where = torch.zeros_like(tensor, dtype=torch.bool)
            where[:, first:last] = True
            return self._effect(tensor, where) == (True, False)

        edges = (
            [size * i // GROUPS for i in range(GROUPS + 1)] if size > GROUPS else [*range(size + 1)]
        )
        dead = [still(a, b) for a, b in itertools.pairwise(edges)]
        first, last = _longest(dead)
        if first == last:
            return None
        start, stop = edges[first], edges[last]
        low, high = (
            (edges[first - 1] if first else 0),
            (edges[last + 1] if last < len(dead) else size),
        )
        while low < start and start - low > 1:  # the block may begin within the group before
            middle = (low + start) // 2
            low, start = (low, middle) if still(middle, start) else (middle, start)
        while stop < high and high - stop > 1:
            middle = (stop + high) // 2
            stop, high = (middle, high) if still(stop, middle) else (stop, middle)
        block = varying[start:stop]
        if stop - start < max(2, SHARE * size) or int(block.sum()) < 2 or not still(start, stop):
            return None
        return IgnoredInput(source=name, part="columns", first=start, last=stop - 1, size=size)

    def _positions(self, name: str, tensor: Tensor) -> IgnoredInput | None:
        """Return the first or last position, if no other changes anything."""
        size = tensor.shape[1]
        if size < 3:
            return None
        for only in (0, size - 1):
            where = torch.ones_like(tensor, dtype=torch.bool)
            where[:, only] = False
            if self._effect(tensor, where) == (True, False):
                return IgnoredInput(source=name, part="positions", first=only, last=only, size=size)
        return None

    def _effect(self, tensor: Tensor, where: Tensor) -> tuple[bool, bool]:
        """Exchange a part; tell whether it goes into a module, and whether a loss changes."""
        twin = torch.where(where, tensor.roll(1, 0), tensor)
        after = heard(self._replica, mapped(self._batch, lambda t: twin if t is tensor else t))
        if not self._base.like(after):
            return False, True
        goes = any(
            not _same((a.args, a.kwargs), (b.args, b.kwargs))
            for a, b in zip(self._base.outermost, after.outermost, strict=True)
        )
        return goes, not self._ends_alike(after)

    def _ends_alike(self, after: Trial) -> bool:
        pairs = zip(self._base.pairs, after.pairs, strict=True)
        return _same(self._base.losses, after.losses) and all(
            _same((a.prediction, a.target), (b.prediction, b.target)) for a, b in pairs
        )


def _named(call: Call) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are arguments with a name of their own."""
    try:
        bound = inspect.signature(call.module.forward).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return
    for name, value in bound.arguments.items():
        many = value if isinstance(value, tuple) else ()  # *args
        several = ((f"{name}[{i}]", item) for i, item in enumerate(many))
        for path, tensor in [(name, value), *several]:
            if isinstance(tensor, Tensor) and tensor.ndim:
                yield path, tensor


def _replaced(call: Call, value: Tensor, other: Tensor) -> tuple[Any, Any, Mapping[str, Any]]:
    def swap(tensor: Tensor) -> Tensor:
        return other if tensor is value else tensor

    args = tuple(mapped(item, swap) for item in call.args)
    return call.module, args, {k: mapped(v, swap) for k, v in call.kwargs.items()}


def _rolled(value: Tensor, count: int) -> Tensor:
    """Exchange samples, which lie along the first axis of their number."""
    return value.roll(1, list(value.shape).index(count))


def _same(before: Any, after: Any) -> bool:
    return not any(bool(changed(a, b).any()) for a, b in matched(before, after))


def _real(value: Tensor) -> bool:
    return value.is_floating_point()


def _two_valued(value: Tensor) -> bool:
    """Tell whether a tensor is a mask."""
    return distinct(value) <= 2


def _may_be_lengths(value: Tensor, sequences: list[Tensor]) -> bool:
    """Tell whether integers fit as numbers of positions."""
    return any(int(value.min()) >= 0 and int(value.max()) <= max(t.shape[:2]) for t in sequences)


def _longest(flags: list[bool]) -> tuple[int, int]:
    """Return the longest run of true values as start and end."""
    best, start = (0, 0), 0
    for i, flag in enumerate([*flags, False]):
        if not flag:
            if i - start > best[1] - best[0]:
                best = start, i
            start = i + 1
    return best
