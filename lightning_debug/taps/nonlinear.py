"""Dead and saturated units: what goes into rectifiers and comes out of squashing functions."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_debug.observation import NonlinearCall
from lightning_debug.taps.functions import MIXERS, Listener
from lightning_debug.taps.loss_calls import LOSSES
from lightning_debug.taps.statistics import ACTIVATION_SAMPLE, dense, sample, tensors_in, wide
from lightning_debug.taps.trace import Origin, Trace, has_parameters
from lightning_debug.taps.transfer import Entry, Ledger

RECTIFIERS = frozenset(
    [
        "relu",
        "relu_",
        "relu6",
        "hardtanh",
        "hardtanh_",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_min_",
        "_threshold",
    ]
)
SQUASHERS = frozenset(["sigmoid", "sigmoid_", "tanh", "tanh_"])
PRODUCTS = frozenset(["mul", "mul_", "__mul__", "__rmul__", "multiply", "addcmul", "lerp"])
MATRIX_PRODUCTS = frozenset(
    ["matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "einsum"]
)
COMPARISONS = frozenset(["sub", "sub_", "__sub__", "__rsub__", "rsub", "subtract"]) | LOSSES
PINNED = 0.99
LOOKS = 8
ENOUGH = 200
MOST_LOOKS = 64


@dataclass
class _Call:
    name: str
    kind: str
    path: str
    place: str
    source: str
    trained: bool = True
    consumed: bool = False
    gate: bool = False
    compared: bool = False
    units: int = 0
    dead_share: Entry = field(default_factory=lambda: Entry(0.0))
    dead_margin: Entry = field(default_factory=lambda: Entry(0.0))
    saturated: Entry = field(default_factory=lambda: Entry(0.0))
    looks: int = 0
    samples: int = 0


@dataclass
class _Window:
    """What the units of one rectifier have shown, look by look.

    Attributes:
        highest: Largest pre-activation of each unit, in standard deviations of the unit.
        samples: Values seen of each unit.
    """

    highest: deque[Tensor] = field(default_factory=deque)
    samples: deque[int] = field(default_factory=deque)

    def add(self, highest: Tensor, samples: int) -> None:
        """Take in a look, and let go of those that are not needed any more."""
        if self.highest and self.highest[0].shape != highest.shape:
            self.highest.clear()
            self.samples.clear()
        self.highest.append(highest)
        self.samples.append(samples)
        while len(self.highest) > LOOKS and (
            len(self.highest) > MOST_LOOKS or sum(self.samples) - self.samples[0] >= ENOUGH
        ):
            self.highest.popleft()
            self.samples.popleft()


@dataclass(eq=False, slots=True)
class _Draft:
    """What one look has seen of a rectifier: the top of each unit, and a few of its values."""

    call: _Call
    window: _Window
    highest: Tensor
    rows: Tensor
    samples: int


class NonlinearTap(Listener):
    """Measures rectifiers before they run and squashing functions after.

    A unit is dead if its largest pre-activation is not above zero, over a window of looks that is
    long enough for two hundred values of each unit. Units stay on the device; only shares come to
    the host.
    """

    names = RECTIFIERS | SQUASHERS | PRODUCTS | COMPARISONS | MIXERS

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ledger = Ledger()
        self._calls: list[_Call] = []
        self._times: Counter[str] = Counter()
        self._drafts: list[_Draft] = []
        self._windows: dict[tuple[str, int], _Window] = {}

    def begin(self, ledger: Ledger) -> None:
        """Start a look."""
        self._ledger = ledger
        self._calls, self._drafts = [], []
        self._times.clear()

    def end(self) -> None:
        """Find out which units are dead, of all rectifiers of one width at once."""
        alike = defaultdict(list)
        for draft in self._drafts:
            alike[draft.rows.device, draft.rows.shape, draft.highest.dtype].append(draft)
        for drafts in alike.values():
            deviations = torch.stack([draft.rows for draft in drafts]).std(dim=1, correction=0)
            tops = torch.stack([draft.highest for draft in drafts]).to(torch.float32)
            highest = (tops / deviations.clamp_min(1e-12)).unbind()
            for draft, units in zip(drafts, highest, strict=True):
                draft.window.add(units, draft.samples)
                draft.call.looks = len(draft.window.samples)
                draft.call.samples = sum(draft.window.samples)
            self._count_dead(drafts)
        self._drafts = []

    def _count_dead(self, drafts: Sequence[_Draft]) -> None:
        """Note how many units are dead, and by how much; they have the same number of units."""
        tops = [torch.stack(list(draft.window.highest)).amax(dim=0) for draft in drafts]
        top = torch.stack(tops)
        silent = top <= 0
        shares = self._ledger.note_row(silent.to(torch.float32).mean(dim=1))
        margin = torch.where(silent, -top, torch.full_like(top, float("nan")))
        margins = self._ledger.note_row(margin.nanquantile(0.25, dim=1))
        for draft, share, far in zip(drafts, shares, margins, strict=True):
            draft.call.dead_share, draft.call.dead_margin = share, far

    def before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at what goes into a rectifier."""
        if name in RECTIFIERS and _cuts_at_zero(name, args, kwargs):
            values = dense(args[0])
            if values is not None and values.ndim > 1:
                origin = self._trace.origin(args[0])
                axis = origin.axis if origin else (1 if values.ndim > 3 else -1)
                call = self._note(name.strip("_"), "relu", args[0])
                self._measure_dead(call, values, axis % values.ndim)

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Look at what comes out of a squashing function, and at who uses it."""
        name = getattr(func, "__name__", "")
        if not isinstance(out, Tensor):
            pass
        elif name in SQUASHERS:
            values = dense(out)
            if values is not None:
                call = self._note(name.strip("_"), name.strip("_"), args[0])
                picked = sample(values, ACTIVATION_SAMPLE).abs()
                pinned = picked > PINNED
                if call.kind == "sigmoid":
                    pinned = pinned | (picked < 1 - PINNED)
                call.saturated = self._ledger.note(pinned.to(wide(values)).mean())
                call.trained = out.requires_grad
                self._mark(out)
        elif name in RECTIFIERS:
            last = self._calls[-1] if self._calls else None
            if last and last.kind == "relu" and last.name == name.strip("_"):
                last.trained = out.requires_grad
                self._mark(out)
        elif name in PRODUCTS:
            self._note_gates([t for t in args[:3] if isinstance(t, Tensor) and t.ndim > 0])
        elif name in COMPARISONS:
            self._note_compared([t for t in args[:2] if isinstance(t, Tensor)])
        if name in MIXERS:
            if name in MATRIX_PRODUCTS:
                factors = [t for t in tensors_in(args) if not _is_weight(t)]
                self._note_gates(factors)
            for origin in self._trace.known(tensors_in((args, kwargs))):
                for position in origin.pending:
                    self._calls[position].consumed = True

    def observations(self, again: Collection[str] = ()) -> tuple[NonlinearCall, ...]:
        """Return the calls of this look, named so that no two share a place.

        Args:
            again: Paths of modules that backward has run again, with a graph.
        """
        paths = Counter(call.place for call in self._calls)
        taken: Counter[str] = Counter()
        result = []
        for call in self._calls:
            place = call.place
            if paths[place] > 1 and call.source and call.path == place:
                place = f"{call.source} > {place}"
            taken[place] += 1
            if taken[place] > 1:
                place = f"{place} #{taken[place]}"
            result.append(
                NonlinearCall(
                    place=place,
                    kind=call.kind,
                    trained=call.trained or call.path in again,
                    head=not call.consumed,
                    gate=call.gate,
                    compared=call.compared,
                    units=call.units,
                    dead_share=call.dead_share.value,
                    dead_margin=call.dead_margin.value,
                    dead_looks=call.looks,
                    dead_samples=call.samples,
                    saturated_share=call.saturated.value,
                )
            )
        return tuple(result)

    def _note(self, name: str, kind: str, source: Tensor) -> _Call:
        origin = self._trace.origin(source)
        frame = self._trace.frames[-1] if self._trace.frames else None
        made_by = origin.place if origin else ""
        if frame and frame.path and not has_parameters(frame.module):
            path = place = frame.path
        else:
            path, place = "", f"{made_by or self._trace.place or 'model'} > {name}"
        call = _Call(name, kind, path, place, made_by)
        self._calls.append(call)
        return call

    def _mark(self, out: Tensor) -> None:
        """Mark the output of the last call, so that it is known who uses it."""
        origin = self._trace.origin(out) or Origin(self._trace.place)
        pending = (*origin.pending, len(self._calls) - 1)
        self._trace.note(out, Origin(origin.place, origin.axis, pending))

    def _note_gates(self, factors: list[Tensor]) -> None:
        if len(factors) > 1:
            for origin in self._trace.known(factors):
                for position in origin.pending:
                    self._calls[position].gate |= self._calls[position].kind != "relu"

    def _note_compared(self, sides: list[Tensor]) -> None:
        if len(sides) > 1:
            for origin in self._trace.known(sides):
                for position in origin.pending:
                    self._calls[position].compared = True

    def _measure_dead(self, call: _Call, values: Tensor, axis: int) -> None:
        highest = values.amax(dim=[dim for dim in range(values.ndim) if dim != axis])
        self._times[call.place] += 1
        key = call.place, self._times[call.place]
        few = [
            slice(None, None, 1 if d == axis else -(-n // 8)) for d, n in enumerate(values.shape)
        ]
        # A copy: rectifiers may write over what goes into them.
        rows = values[tuple(few)].movedim(axis, -1).flatten(0, -2).to(torch.float32, copy=True)
        window = self._windows.setdefault(key, _Window())
        call.units = highest.numel()
        samples = values.numel() // highest.numel()
        self._drafts.append(_Draft(call, window, highest, rows, samples))


def _is_weight(tensor: Tensor) -> bool:
    """Tell whether a tensor is a parameter or a view of one, such as a transposed weight."""
    return isinstance(tensor, Parameter) or isinstance(tensor._base, Parameter)


def _cuts_at_zero(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a rectifier gives exactly 0 for all negative inputs."""
    if not args or not isinstance(args[0], Tensor):
        return False
    if name.startswith("relu"):
        return True
    keywords = {"hardtanh": "min_val", "_threshold": "threshold"}
    low = args[1] if len(args) > 1 else kwargs.get(keywords.get(name.strip("_"), "min"))
    return not isinstance(low, Tensor) and low == 0
