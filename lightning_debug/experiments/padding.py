"""Whether attention reads padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_debug.experiments.batches import distinct, mapped
from lightning_debug.experiments.calls import Call
from lightning_debug.experiments.layout import Samples, innermost
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.trial import ROUNDING, Trial, heard, matched
from lightning_debug.observation import PaddingUse, ReadPadding
from lightning_debug.taps.data import named_tensors

SHIFTED = 2
COUNTS = (4, 8, 2, 3, 6)
ATTENTION = frozenset(["softmax", "scaled_dot_product_attention", "multi_head_attention_forward"])
OTHER_MIXERS = frozenset(
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell conv1d conv2d conv_transpose1d".split()
)


@dataclass(frozen=True, slots=True)
class _Padded:
    """Sequences that end in padding: how long each is, and how long all are with padding."""

    source: str
    lengths: Tensor
    length: int


def padding(replica: Replica, batch: Any, *, step: int, epoch: int) -> PaddingUse:
    """Cut padding off that all of a few samples have, and compare what comes out for the rest."""
    replica.evaluating = True
    samples = Samples(replica, batch)
    padded = _padded(batch, samples)
    order = padded.lengths.argsort().tolist()
    for count in COUNTS:
        chosen = order[:count]
        longest = int(padded.lengths[chosen].max())
        near = abs(count - padded.length) <= SHIFTED
        if len(chosen) == count and longest < padded.length and not near:
            break
    else:
        raise NotApplicableError("too few sequences end in padding")
    part = samples.pick(chosen)
    trial = _Cut(replica, part, samples.axis, padded.lengths[chosen], padded.length, longest)
    return PaddingUse(
        step=step,
        epoch=epoch,
        source=padded.source,
        length=padded.length,
        longest=longest,
        outputs=tuple(trial.readers()),
        exchanged=trial.exchanged,
    )


class _Cut:
    """A step with padding and without, side by side.

    Attributes:
        exchanged: Whether padding was exchanged for something else, as it could not be cut off.
    """

    def __init__(
        self, replica: Replica, batch: Any, axis: int, lengths: Tensor, length: int, longest: int
    ) -> None:
        self._replica, self._batch, self._axis = replica, batch, axis
        self._length, self._longest = length, longest
        self._lengths = lengths.cpu()
        self.exchanged = False

    def _real(self, long: int, short: int) -> Tensor:
        """Return which of the first positions are real, for each sample.

        Where the step has shortened the sequences, nobody knows at which end.
        """
        lengths = self._lengths - max(0, self._length - long)
        return torch.arange(short) < lengths[:, None]

    def _is_time(self, long: int, short: int) -> bool:
        """Tell whether an axis is that of positions, give or take those that the step shifts."""
        near = abs(long - self._length) <= SHIFTED
        return near and long - short == self._length - self._longest

    def readers(self) -> Iterator[ReadPadding]:
        """Yield the innermost modules that read padding though they attend."""
        before, after = self._pair(nested=False)
        calls = list(zip(before.calls, after.calls, strict=True))
        if all(self._change(a.out, b.out) == 0.0 for a, b in calls) and all(
            self._change((a.args, a.kwargs), (b.args, b.kwargs)) == 0.0 for a, b in calls
        ):
            return
        before, after = self._pair(nested=True)
        twins = {id(a): b for a, b in zip(before.calls, after.calls, strict=True)}
        if not any(names & ATTENTION for names in before.functions.values()):
            raise NotApplicableError("the model does without attention")
        begun = [
            call
            for call in before.calls
            if self._change(call.out, twins[id(call)].out) > 0.0
            and self._change(_given(call), _given(twins[id(call)])) == 0.0
        ]
        for call in innermost(begun):
            names = before.functions.get(id(call), set())
            pooled = self._pooled(call, twins[id(call)])
            if names & OTHER_MIXERS or not (names & ATTENTION or pooled):
                continue
            yield ReadPadding(
                place=call.path or "model",
                kind=type(call.module).__name__,
                pooled=pooled,
                attends=bool(names & ATTENTION),
                change=self._change(call.out, twins[id(call)].out),
            )
        if begun:
            return
        for call in before.outermost:
            change = self._change(_given(call), _given(twins[id(call)]))
            if change > 0.0:
                # What the step has done between two modules.
                names = before.functions.get(0, set())
                pooled = not self._times(_given(call), _given(twins[id(call)]))
                if not names & OTHER_MIXERS and (names & ATTENTION or pooled):
                    attends = bool(names & ATTENTION)
                    yield ReadPadding(
                        place="training_step", pooled=pooled, attends=attends, change=change
                    )
                return

    def _pair(self, *, nested: bool) -> tuple[Trial, Trial]:
        before = heard(self._replica, self._batch, nested=nested)
        after = self._without(nested=nested)
        if not before.like(after):
            raise NotApplicableError("which modules run depends on the length")
        return before, after

    def _without(self, *, nested: bool) -> Trial:
        """Run the step without padding; where the length is fixed, with other padding."""
        if not self.exchanged:
            try:
                return heard(self._replica, mapped(self._batch, self._cut), nested=nested)
            except NotApplicableError:
                self.exchanged, self._longest = True, self._length
        return heard(self._replica, self._batch, nested=nested, nudge=self._embedded)

    def _embedded(self, module: nn.Module, out: Any) -> Any:
        """Put the vectors of other tokens where those of padding are."""
        if not isinstance(module, nn.Embedding):
            return out
        rows = out if self._axis == 0 else out.transpose(0, 1)
        count, size = rows.shape[:2]
        if rows.ndim != 3 or count != len(self._lengths) or not self._is_time(size, size):
            return out
        real = self._real(size, size).to(out.device)[..., None]
        rows = torch.where(real, rows, rows[:, :1])
        return rows if self._axis == 0 else rows.transpose(0, 1)

    def _cut(self, tensor: Tensor) -> Tensor:
        """Cut padding off along time: twice in a mask of pairs of positions."""
        time = 1 - self._axis
        for axis in range(tensor.ndim):
            pairs = axis > 1 and not tensor.is_floating_point()
            if tensor.shape[axis] == self._length and (axis == time or pairs):
                tensor = tensor.narrow(axis, 0, self._longest)
        return tensor

    def _times(self, before: Any, after: Any) -> bool:
        """Tell whether anything in it has positions."""
        return any(
            a.shape != b.shape or (self.exchanged and any(map(self._is_time, a.shape, b.shape)))
            for a, b in matched(before, after)
        )

    def _pooled(self, call: Call, twin: Call) -> bool:
        return self._times(_given(call), _given(twin)) and not self._times(call.out, twin.out)

    def _change(self, before: Any, after: Any) -> float:
        """Return the largest change at real positions, over the size of what was there."""
        return max((self._changed(a, b) for a, b in matched(before, after)), default=0.0)

    def _changed(self, before: Tensor, after: Tensor) -> float:
        if not before.is_floating_point() or not before.numel() or before.ndim != after.ndim:
            return 0.0
        if not before.ndim:
            return 0.0  # a loss beside the output
        count = len(self._lengths)
        sizes = before.shape[0] // count, after.shape[0] // count
        flat = before.shape[0] % count == 0 and after.shape[0] % count == 0
        if flat and sizes[0] > 1 and self._is_time(*sizes):
            rest = before.shape[1:]
            samples_first = before.view(count, -1, *rest), after.view(count, -1, *rest)
            time_first = before.view(sizes[0], count, *rest), after.view(sizes[1], count, *rest)
            swapped = (t.transpose(0, 1) for t in time_first)
            return min(self._changed(*samples_first), self._changed(*swapped))
        times = {}
        for axis, (long, short) in enumerate(zip(before.shape, after.shape, strict=True)):
            if long == short and not self.exchanged:
                continue
            if not self._is_time(long, short):
                if long != short:
                    return 0.0  # what this is nobody knows
                continue
            times[axis] = self._real(long, short)
            before = before.narrow(axis, 0, short)
        rows = [i for i, size in enumerate(before.shape) if size == count and i not in times]
        real = torch.ones((), dtype=torch.bool, device=before.device)
        if times:
            if not rows:
                return 0.0
            for axis, mask in times.items():
                shape = [1] * before.ndim
                shape[rows[0]], shape[axis] = mask.shape
                ordered = mask if rows[0] < axis else mask.T
                real = real & ordered.to(before.device).reshape(shape)
        real = real.expand_as(before)
        return _relative(before[real], after[real])


def _given(call: Call) -> Any:
    return call.args, call.kwargs


def _relative(before: Tensor, after: Tensor) -> float:
    if torch.equal(before.isfinite(), after.isfinite()):
        finite = before.isfinite()
        before, after = before[finite], after[finite]
    size = float(before.norm())
    gap = float((before - after).norm())
    if not gap > ROUNDING * size:
        return 0.0 if gap == gap else 1.0  # not finite without the padding: nothing is left
    return gap / size if size else 1.0


def _padded(batch: Any, samples: Samples) -> _Padded:
    """Return the lengths of the sequences of a batch; the longest where several tensors tell."""
    found: dict[int, _Padded] = {}
    for name, tensor in named_tensors(batch):
        if tensor.ndim not in (2, 3) or tensor.shape[1 - samples.axis] < 3:
            continue
        rows = tensor.detach().movedim(samples.axis, 0)
        lengths = _lengths(rows)
        if lengths is None:
            continue
        length = rows.shape[1]
        if length in found:
            lengths = torch.maximum(lengths, found[length].lengths)
            found[length] = _Padded(found[length].source, lengths, length)
        else:
            found[length] = _Padded(name, lengths, length)
    # Two lengths are those of two languages; one source of padding is looked at.
    if not found:
        raise NotApplicableError("no sequence ends in padding")
    return next(iter(found.values()))


def _lengths(rows: Tensor) -> Tensor | None:
    """Return how long sequences are that end in one value that is nowhere else, if they do."""
    if rows.ndim == 3:
        if not rows.is_floating_point():
            return None
        marks = (rows == 0).all(-1)
    else:
        last = rows[:, -1]
        binary = rows.dtype is torch.bool or bool(((rows == 0) | (rows == 1)).all())
        if rows.is_floating_point() and not binary:
            return None
        if not binary and bool((rows < 0).any()):
            return None
        commonest, _ = Counter(last.tolist()).most_common(1)[0]
        marks = rows == commonest
    tails = marks.flip(1).long().cumprod(1).sum(1)
    if int(marks.sum()) != int(tails.sum()) or distinct(tails[tails > 0]) < 2:
        return None
    if bool((tails == rows.shape[1]).any()):
        return None
    return (rows.shape[1] - tails).cpu()
