"""What becomes of the batch: what enters the first weights, what predictions are held against."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_debug.observation import Column, DataEntry, TargetCall
from lightning_debug.taps.functions import CHANNEL_FIRST, MIXERS, TAMERS, Listener
from lightning_debug.taps.loss_heard import Heard
from lightning_debug.taps.statistics import (
    ACTIVATION_SAMPLE,
    dense,
    sample,
    stride_for,
    tensors_in,
)
from lightning_debug.taps.trace import Material, Trace, takes_only_shapes
from lightning_debug.taps.transfer import Entry, Ledger

# Functions whose second argument is the weight by definition, whatever made it.
LAYERS = frozenset(
    """linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d lstm gru
    rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell bilinear
    multi_head_attention_forward""".split()
)
PRODUCTS = frozenset("matmul __matmul__ mm bmm addmm baddbmm einsum".split())
COLUMNS = 256
ROWS = 1024
MOST_ENTRIES = 8
NUMBERS = 5


@dataclass(frozen=True, slots=True)
class _Lineage:
    """The tensors of the batch that a tensor was computed from.

    Attributes:
        valued: Those whose values went in, not only their shape as with ``zeros_like``.
        learned: Whether weights went in, such as those of a frozen part.
    """

    parents: frozenset[int] = frozenset()
    valued: frozenset[int] = frozenset()
    learned: bool = False


@dataclass(slots=True)
class _Entry:
    """Data that entered a layer; ``raw``: the next layer takes what comes out without a norm."""

    place: str
    kind: str
    width: int
    rows: int
    indices: Sequence[int]
    numbers: list[Entry]
    parents: frozenset[int]
    normalized: bool = False
    raw: bool = False


class EntryTap(Listener):
    """Follows the tensors of the batch until the first weights or a loss function take them.

    What the user's step and modules without weights do to them before, such as ``x / 255`` or
    ``nn.Flatten``, is part of the way.

    Attributes:
        inputs: Positions in the batch of the tensors that weights took.
        targets: Positions of those that predictions were held against.
        picked: Whether predictions were held against samples that the step picked from them.
    """

    everything = True

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ledger = Ledger()
        self._columns = False
        self._lineages: dict[int, tuple[weakref.ref[Tensor], _Lineage]] = {}
        self._made: dict[int, tuple[weakref.ref[Tensor], _Entry]] = {}
        self._entries: list[_Entry] = []
        self._targets: list[tuple[str, int, Entry, Entry]] = []
        self._sizes: list[tuple[int, int]] = []
        self.inputs: set[int] = set()
        self.targets: set[int] = set()
        self.picked = False

    def begin(self, batch: Sequence[Tensor], ledger: Ledger, *, columns: bool) -> None:
        """Start a look at a batch; ``columns`` tells whether to measure what enters."""
        self._ledger = ledger
        self._columns = columns
        self._entries, self._targets = [], []
        self.inputs, self.targets, self.picked = set(), set(), False
        self._sizes = [(len(t) if t.ndim else 1, t.numel()) for t in batch]
        self._lineages = {
            id(tensor): (weakref.ref(tensor), _Lineage(frozenset([i]), frozenset([i])))
            for i, tensor in enumerate(batch)
        }

    def end(self) -> None:
        """Note what became of the layers' output, and let go of the lineages."""
        for entry in self._entries:
            entry.normalized = entry.place in self._trace.tamed and not entry.raw
        self._lineages, self._made = {}, {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Map[str, Any], out: Any
    ) -> None:
        """Follow a call."""
        outputs = list(tensors_in(out, depth=1))
        if not outputs:
            return
        name = getattr(func, "__name__", "")
        inputs = list(tensors_in((args, kwargs)))
        lineage = self._lineage(inputs)
        if any(isinstance(tensor, Parameter) for tensor in inputs):
            self.inputs |= lineage.parents
        if any(tensor.requires_grad for tensor in outputs):
            self._follow(name, inputs, outputs)
            if name in LAYERS or name in PRODUCTS:
                self._enter(name, inputs, outputs)
            return
        if lineage.parents:
            made = _Lineage(
                lineage.parents,
                frozenset() if takes_only_shapes(name) else lineage.valued,
                lineage.learned or any(map(self._made_of_weights, inputs)),
            )
            self._lineages.update((id(tensor), (weakref.ref(tensor), made)) for tensor in outputs)

    def compared(self, heard: Heard) -> None:
        """Hear of a loss: what it holds a prediction against is a target."""
        given = heard.target if heard.given is None else heard.given
        valued = self._lineage([given]).valued
        self.targets |= valued
        target = heard.target
        if not valued or not target.numel():
            return
        self.picked |= any(_picks(target, *self._sizes[i]) for i in valued)
        with torch.no_grad():
            picked = sample(target.detach(), ACTIVATION_SAMPLE)
            low, high = picked.amin(), picked.amax()
            ends = self._ledger.note(low.float()), self._ledger.note(high.float())
            self._targets.append((heard.place, target.numel(), *ends))

    def data_entries(self) -> tuple[DataEntry, ...]:
        """Return what entered the first weights."""
        return tuple(
            DataEntry(
                place=entry.place,
                kind=entry.kind,
                width=entry.width,
                rows=entry.rows,
                columns=_columns(entry.indices, [e.value for e in entry.numbers]),
                normalized=entry.normalized,
                derived=bool(entry.parents),
                target=bool(entry.parents & self.targets),
            )
            for entry in self._entries
        )

    def target_calls(self) -> tuple[TargetCall, ...]:
        """Return the targets of the batch, where they were used."""
        return tuple(
            TargetCall(place=place, values=values, low=low.value, high=high.value)
            for place, values, low, high in self._targets
        )

    def _lineage(self, tensors: Sequence[Tensor]) -> _Lineage:
        found = [
            known[1]
            for tensor in tensors
            if (known := self._lineages.get(id(tensor))) and known[0]() is tensor
        ]
        return _Lineage(
            frozenset().union(*(one.parents for one in found)),
            frozenset().union(*(one.valued for one in found)),
            any(one.learned for one in found),
        )

    def _made_of_weights(self, tensor: Tensor) -> bool:
        return self._trace.marked(tensor).material is Material.WEIGHTS or _is_weight(tensor)

    def _follow(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Follow what an entry made until a norm or the next layer takes it."""
        if name in TAMERS:
            return
        for tensor in inputs:
            known = self._made.get(id(tensor))
            if known is None or known[0]() is not tensor:
                continue
            if name in MIXERS:
                known[1].raw = True
            else:
                self._made.update((id(out), (weakref.ref(out), known[1])) for out in outputs)

    def _enter(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Measure data that go into a layer; what weights made is not data any more.

        Where it cannot be known how a module made something of the batch, weights may have.
        """
        trained = [
            t
            for t in inputs[1:]
            if t.requires_grad and t.ndim > 1 and (name in LAYERS or _is_weight(t))
        ]
        data = inputs[0] if inputs else None
        if data is None or not trained or _is_weight(data):
            return
        lineage = self._lineage([data])
        unknown = not lineage.parents and self._trace.origin(data) is not None
        if unknown or lineage.learned or (data.requires_grad and not data.is_leaf):
            return
        parents = lineage.parents
        self.inputs |= parents
        values = dense(data)
        if values is None or not self._columns or len(self._entries) >= MOST_ENTRIES:
            return
        if values.is_complex() or data.is_complex() or values.shape != data.shape:
            return
        place = self._trace.place or "training_step"
        with torch.no_grad():
            axis = _axis(name, values, trained[0])
            indices, row = _measure(values, trained[0].detach(), axis, name)
            numbers = self._ledger.note_row(row)
        width = values.shape[axis]
        rows = values.numel() // width
        entry = _Entry(place, name, width, rows, indices, numbers, parents)
        self._entries.append(entry)
        self._made.update((id(out), (weakref.ref(out), entry)) for out in outputs)


def _picks(target: Tensor, samples: int, values: int) -> bool:
    """Tell whether a target holds other samples than the tensor of the batch that it comes from.

    Such as some nodes of a graph, or windows of series that overlap. Whole samples, also with
    their positions laid side by side, come in multiples of them.
    """
    if not target.ndim or not samples:
        return False
    several = len(target) % samples > 0
    return several or (len(target) > samples and target.numel() > values)


def _is_weight(tensor: Tensor) -> bool:
    return isinstance(tensor, Parameter) or isinstance(tensor._base, Parameter)


def _axis(name: str, values: Tensor, weight: Tensor) -> int:
    """Return the axis of the features: channels of a convolution, the last one otherwise."""
    if name in CHANNEL_FIRST:
        return values.ndim - weight.ndim + 1
    return values.ndim - 1


def _measure(values: Tensor, weight: Tensor, axis: int, name: str) -> tuple[range, Tensor]:
    """Return which columns were measured, and ``NUMBERS`` numbers for each, one after another."""
    width = values.shape[axis]
    step = stride_for(width, COLUMNS)
    others = [dim for dim in range(values.ndim) if dim != axis]
    few = int(ROWS ** (1.0 / max(1, len(others))))
    cut = [
        slice(None, None, step if dim == axis else -(-length // few))
        for dim, length in enumerate(values.shape)
    ]
    rows = values[tuple(cut)].movedim(axis, -1).reshape(-1, len(range(0, width, step)))
    rows = rows.to(torch.float64 if values.device.type != "mps" else torch.float32)
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    ends = ((rows == low) | (rows == high)).to(rows.dtype).mean(dim=0)
    numbers = [
        rows.mean(dim=0),
        rows.std(dim=0, correction=0),
        _pull(weight, width, name)[::step].to(rows.dtype),
        ends,
        (rows == 0).to(rows.dtype).mean(dim=0),
    ]
    return range(0, width, step), torch.cat(numbers)


def _pull(weight: Tensor, width: int, name: str) -> Tensor:
    """Return the root mean square, over the outputs, of the weights that each column meets."""
    axis = next((dim for dim in (1, 0) if weight.shape[dim] == width), -1)
    if name in PRODUCTS or "transpose" in name:
        axis = next((dim for dim in (0, 1) if weight.shape[dim] == width), -1)
    if axis < 0:  # groups
        rms = weight.square().sum() / max(1, weight.shape[0])
        fan_in = max(1, weight.numel() // max(1, weight.shape[0]))
        return torch.sqrt(rms / fan_in).expand(width)
    rest = [dim for dim in range(weight.ndim) if dim != axis]
    return torch.sqrt(weight.square().sum(dim=rest) / weight.shape[1 - axis])


def _columns(indices: Sequence[int], numbers: Sequence[float]) -> tuple[Column, ...]:
    n = len(indices)
    mean, std, pull, ends, zeros = (numbers[k * n : (k + 1) * n] for k in range(NUMBERS))
    return tuple(
        Column(
            index=indices[i],
            mean=mean[i],
            std=std[i],
            pull=pull[i],
            binary=ends[i] == 1.0,
            zeros=zeros[i],
        )
        for i in range(n)
    )
