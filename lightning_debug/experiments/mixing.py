"""Whether samples of a batch influence each other's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_debug.experiments.batches import mapped
from lightning_debug.experiments.calls import Call
from lightning_debug.experiments.layout import Samples, innermost, scaling
from lightning_debug.experiments.pairs import Pair
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.trial import Trial, changed, heard, matched
from lightning_debug.observation import BatchMixing, MixedOutput
from lightning_debug.taps.statistics import tensors_in

# How many samples, and how many fewer: even, for steps that halve a batch. The first that are
# not too much for the model.
SIZES = ((6, 4), (4, 2))
NUDGE = 1e-4
CHANGED = 1


def mixing(replica: Replica, batch: Any, *, step: int, epoch: int) -> BatchMixing:
    """Exchange one sample, and compare the outputs for the others.

    What the training step itself computes of a batch before a module gets it, as mixup does, is
    left alone: a module is judged where its inputs are those of before for the other samples. But
    values that have only changed places, as a view in the wrong order does it, are judged.
    """
    replica.evaluating = True
    samples = Samples(replica, batch)
    (many, few), least = SIZES
    if replica.load.samples(batch, samples.size, many, least[0]) >= many:
        sizes = many, few
    else:
        sizes = least if samples.size >= many else (samples.size, samples.size - 1)
    if sizes[1] < 2:
        raise NotApplicableError("there are too few samples in the batch")
    trio = _Trio(replica, samples, sizes)
    found = trio.mixed()
    if not found or trio.only_steps() or _by_design(replica, found):
        return BatchMixing(step=step, epoch=epoch, samples=sizes[0])
    if isinstance(found[0], Call):
        trio = _Trio(replica, samples, sizes, nested=True)
        found = [call for call in trio.innermost() if not trio.statistic(call)]
    outputs = tuple(dict.fromkeys(map(_described, found)))
    return BatchMixing(step=step, epoch=epoch, samples=sizes[0], outputs=outputs)


class _Trio:
    """A step with some samples, with fewer, and with one of them exchanged for another."""

    def __init__(
        self,
        replica: Replica,
        samples: Samples,
        sizes: tuple[int, int],
        *,
        nested: bool = False,
    ) -> None:
        self._replica, self._samples, self.sizes = replica, samples, sizes
        self._nested = nested
        self._numbered = False  # whole numbers have changed places
        many, few = (list(range(size)) for size in sizes)
        self.base = heard(replica, samples.pick(many), nested=nested)
        self._small = heard(replica, samples.pick(few), nested=nested)
        self.other = self._exchanged()
        if not self.base.like(self._small) or not self.base.like(self.other):
            raise NotApplicableError("which modules run depends on the values")

    def mixed(self) -> list[Call | Pair]:
        """Return the outermost calls, or else the predictions, that mix samples."""
        calls = [c for c in self.base.outermost if c.out is not None]
        found: list[Call | Pair] = [c for c in calls if self._mixes(c, self.other)]
        if found:
            return found
        if not all(self._clean(c, "out") or self._fed_mixed(c) for c in calls):
            return []
        return [p for p in self.base.pairs if self._predicts_mixed(p)]

    def _fed_mixed(self, call: Call) -> bool:
        """Tell whether what a module takes was mixed, and neither by chance nor on purpose.

        Mixup draws how, and statistics over a batch may be taken of data. Where values of the
        data have only changed places, or weights have been at work, nobody has meant it.
        """
        twin, small = self._twin(call, self.other), self._twin(call, self._small)
        sides = [(c.args, c.kwargs) for c in (call, twin, small)]
        trios = zip(matched(sides[0], sides[1]), matched(sides[0], sides[2]), strict=True)
        dirty = [
            left
            for (left, right), (_, less) in trios
            if _reaches(left, right, scaling(left, less, self.sizes), self.sizes[0], strict=True)
        ]
        raw = [tensor for tensor in dirty if id(tensor) not in self.base.learned]
        if not dirty or self.base.drawn or not all(map(self._reordered, raw)):
            return False
        self._numbered = self._numbered or any(not t.is_floating_point() for t in raw)
        return True

    def _reordered(self, tensor: Tensor) -> bool:
        """Tell whether a tensor holds the values of one of the batch, in other places."""
        for given in tensors_in(self._batch()):
            apart = given.shape != tensor.shape or not _same_values(given, tensor)
            if apart and given.numel() == tensor.numel():
                sides = (t.detach().reshape(-1).double().sort()[0] for t in (given, tensor))
                if torch.equal(*sides):
                    return True
        return False

    def innermost(self) -> list[Call]:
        """Return the calls that mix samples while none of the calls in them does."""
        mixed = [c for c in self.base.calls if c.out is not None and self._mixes(c, self.other)]
        return innermost(mixed)

    def statistic(self, call: Call) -> bool:
        """Tell whether a call adds to its input something that is the same for all samples.

        So does the standard deviation over a batch that a discriminator is given.
        """
        after, small = self._twin(call, self.other), self._twin(call, self._small)
        others = [i for i in range(self.sizes[0]) if i != CHANGED]
        trios = zip(matched(call.out, after.out), matched(call.out, small.out), strict=True)
        for (left, right), (_, less) in trios:
            axes = scaling(left, less, self.sizes)
            if axes is None or len(axes) != 1 or left.shape[axes[0]] != self.sizes[0]:
                return False
            where = changed(left, right).movedim(axes[0], 0)[others]
            if not bool(where.any()):
                continue
            if not left.is_floating_point():
                return False
            gap = (right - left).movedim(axes[0], 0)[others]
            same = torch.allclose(gap, gap[:1].expand_as(gap), rtol=1e-6)
            if bool(where.all()) or not same:
                return False
        return True

    def only_steps(self) -> bool:
        """Tell whether a small change of a sample changes no other: what mixes are decisions.

        So do experts that take so many tokens and no more. Whole numbers cannot be changed a
        little, so it is not known of those that have changed places.
        """
        if self._numbered:
            return False
        after = self._nudged()
        if not self.base.like(after):
            return True
        calls = [c for c in self.base.outermost if c.out is not None]
        moved = any(self._moved(c, after) for c in calls)
        mixed = [c for c in calls if self._mixes(c, after)]
        pairs = [p for p in self.base.pairs if self._predicts_mixed(p, after)]
        return moved and not mixed and not pairs

    def _exchanged(self) -> Trial:
        for other in range(self.sizes[0] - 1, -1, -1):
            indices = list(range(self.sizes[0]))
            indices[CHANGED] = other
            trial = heard(self._replica, self._samples.pick(indices), nested=self._nested)
            if any(self._moved(c, trial) for c in self.base.outermost):
                return trial
        raise NotApplicableError("all samples are equal")

    def _nudged(self) -> Trial:
        """Run the step with one sample moved a little towards another."""
        axis, size = self._samples.axis, self.sizes[0]

        def moved(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.ndim <= axis:
                return tensor
            twin = tensor.double().movedim(axis, 0).clone()
            twin[CHANGED] += NUDGE * (twin[-1] - twin[CHANGED])
            return twin.movedim(0, axis)

        def nudge(module: nn.Module, out: Any) -> Any:
            if not isinstance(module, nn.Embedding):
                return out
            axes = [i for i, length in enumerate(out.shape) if length == size]
            if len(axes) != 1:
                return out
            rows = out.movedim(axes[0], 0).clone()
            rows[CHANGED] += NUDGE * (rows[-1] - rows[CHANGED])
            return rows.movedim(0, axes[0])

        batch = mapped(self._samples.pick(list(range(size))), moved)
        return heard(self._replica, batch, nested=self._nested, nudge=nudge)

    def _moved(self, call: Call, after: Trial) -> bool:
        twin = self._twin(call, after)
        if twin is None:
            return False
        left = (call.args, call.kwargs, call.out)
        right = (twin.args, twin.kwargs, twin.out)
        return any(bool(changed(a, b).any()) for a, b in matched(left, right))

    def _twin(self, call: Call, trial: Trial) -> Any:
        index = next(i for i, c in enumerate(self.base.calls) if c is call)
        return trial.calls[index] if index < len(trial.calls) else None

    def _clean(self, call: Call, side: str) -> bool:
        return not self._dirty(call, self.other, side)

    def _mixes(self, call: Call, after: Trial) -> bool:
        return self._dirty(call, after, "out") and not self._dirty(call, after, "inputs")

    def _dirty(self, call: Call, after: Trial, side: str) -> bool:
        """Tell whether anything of other samples differs in what a call took or gave."""

        def part(of: Call) -> Any:
            return of.out if side == "out" else (of.args, of.kwargs)

        twin, small = self._twin(call, after), self._twin(call, self._small)
        strict = side == "inputs"
        return any(
            _reaches(left, right, scaling(left, less, self.sizes), self.sizes[0], strict=strict)
            for (left, right), (_, less) in zip(
                matched(part(call), part(twin)), matched(part(call), part(small)), strict=True
            )
        )

    def _predicts_mixed(self, pair: Pair, after: Trial | None = None) -> bool:
        index = next(i for i, p in enumerate(self.base.pairs) if p is pair)
        twin, small = (after or self.other).pairs[index], self._small.pairs[index]
        if not any(_same_values(pair.target, t) for t in tensors_in(self._batch())):
            return False
        size = self.sizes[0]
        axes = scaling(pair.target, small.target, self.sizes)
        if _reaches(pair.target, twin.target, axes, size, strict=True):
            return False
        axes = scaling(pair.prediction, small.prediction, self.sizes)
        return _reaches(pair.prediction, twin.prediction, axes, size, strict=False)

    def _batch(self) -> Any:
        return self._samples.pick(list(range(self.sizes[0])))


def _reaches(
    before: Tensor, after: Tensor, axes: list[int] | None, size: int, *, strict: bool
) -> bool:
    """Tell whether a tensor differs for samples that were not exchanged.

    Args:
        before: The tensor as it was.
        after: With one sample exchanged.
        axes: Those that grow with the number of samples.
        size: The number of samples.
        strict: What is said of a tensor that does not hold samples along one axis: that it
            differs at all, or nothing.
    """
    where = changed(before, after)
    if not bool(where.any()):
        return False
    if axes is None or not axes:
        return strict
    if len(axes) > 1:
        # Between all pairs of samples: those without the exchanged one.
        if not strict or any(before.shape[axis] != size for axis in axes):
            return strict
        for axis in axes:
            keep = torch.tensor([i for i in range(size) if i != CHANGED], device=where.device)
            where = where.index_select(axis, keep)
        return bool(where.any())
    rows = where.movedim(axes[0], 0).flatten(1).any(1) if where.ndim > 1 else where
    if len(rows) % size:
        return strict  # of some of the samples, such as half of a batch
    others = [i for i in range(size) if i != CHANGED]
    # Flattened with time or views: sample by sample, or the other way round.
    layouts = (rows.view(size, -1), rows.view(-1, size).T)
    return all(bool(layout[others].any()) for layout in layouts)


def _same_values(target: Tensor, tensor: Tensor) -> bool:
    return target.numel() == tensor.numel() and bool(
        (target.reshape(-1).double() == tensor.reshape(-1).double()).all()
    )


def _by_design(replica: Replica, found: list[Call | Pair]) -> bool:
    """Tell whether one value a sample comes from a game of several optimizers.

    A discriminator may look at a whole batch, to see how much its samples differ.
    """
    if len(replica.optimizers) < 2:
        return False
    outs = [t for c in found if isinstance(c, Call) for t in tensors_in(c.out)]
    return bool(outs) and all(t.ndim == 1 or t[0].numel() == 1 for t in outs if t.ndim)


def _described(item: Call | Pair) -> MixedOutput:
    if isinstance(item, Pair):
        return MixedOutput(place=item.place, function=item.function)
    return MixedOutput(place=item.path or "model", kind=type(item.module).__name__)
