"""What the leaf modules of the model produced, and the gradient that came back through them."""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from lightning_debug.observation import BackwardCall, ModuleCall
from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.statistics import (
    dense,
    few_positions,
    few_samples,
    first_dense,
    norm,
    spreads,
    tensors_in,
    total,
)
from lightning_debug.taps.trace import Frame, Origin, Trace, has_parameters
from lightning_debug.taps.transfer import Entry, Ledger

CALLS_PER_MODULE = 8


@dataclass
class _Value:
    """The numbers of one tensor."""

    norm: Entry
    total: Entry
    numel: int
    spread: Entry = field(default_factory=lambda: Entry(math.nan))
    positions: Entry = field(default_factory=lambda: Entry(math.nan))

    @property
    def rms(self) -> float:
        return self.norm.value / math.sqrt(self.numel)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.total.value)


@dataclass
class _Call:
    place: str
    kind: str
    parametric: bool
    trained: bool
    out: _Value
    input: _Value | None
    integer_input: bool
    reads: bool
    source: str = ""
    feeds_norm: bool = False


@dataclass
class _Flow:
    """Sums of the gradients at the output and at the input of a call, as backward reached them."""

    out: list[Entry] = field(default_factory=list)
    input: list[Entry] = field(default_factory=list)


class ForwardTap:
    """Hooks all modules at once, for the length of one look.

    One global hook costs a fraction of a hook on each module, and leaves nothing on the modules,
    on copies of them, or in a pickle.

    Args:
        trace: Told which modules run.
        functions: Made deaf while we measure.
        criterion: Told about every module that ran, its arguments and its output.
        failed: Called with an exception of our own; nothing is measured from then on.

    Attributes:
        again: Paths of modules that backward has run again, with a graph. A reentrant checkpoint
            runs them without one at first, so their outputs do not look trained.
    """

    def __init__(
        self,
        trace: Trace,
        functions: FunctionTap,
        criterion: Callable[[Frame, Any, Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.again: set[str] = set()
        self._criterion = criterion
        self._trace = trace
        self._functions = functions
        self._failed = failed
        self._handles: list[RemovableHandle] = []
        self._ledger = Ledger()
        self._measuring = False
        self._thread = 0
        self._backward = False
        self._calls: list[_Call] = []
        self._times: Counter[str] = Counter()
        self._tamed: set[str] = set()
        self._values: dict[int, tuple[weakref.ref[Tensor], _Value, int]] = {}
        self._flows: dict[int, _Flow] = {}
        self._rows: dict[tuple[object, ...], list[tuple[_Value, str, Tensor]]] = {}
        self._heard: dict[int, tuple[weakref.ref[Tensor], int, list[tuple[int, str]]]] = {}

    def begin(self, ledger: Ledger, *, backward: bool) -> None:
        """Start a look; ``backward`` tells whether to follow the gradients too."""
        self._ledger = ledger
        self._backward = backward
        self._calls, self._values, self._flows, self._heard = [], {}, {}, {}
        self._rows = {}
        self._times.clear()
        self._tamed, self.again = set(), set()
        self._measuring = True
        self._thread = threading.get_ident()
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave),
        ]

    def pause(self, paused: bool = True) -> None:
        """Ignore modules that run inside backward: checkpointing computes them again."""
        self._measuring = not paused and bool(self._handles)

    def end(self) -> None:
        """Take the hooks off."""
        self._tamed |= self._trace.tamed
        self._measuring = False
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._values, self._heard = {}, {}
        self._measure_rows()

    def modules(self, parameters_finite: Mapping[str, bool]) -> tuple[ModuleCall, ...]:
        """Return the calls of this look; ``parameters_finite`` by path of the owner."""
        last = max((i for i, call in enumerate(self._calls) if call.parametric), default=-1)
        return tuple(
            ModuleCall(
                place=call.place,
                kind=call.kind,
                parametric=call.parametric,
                trained=call.trained or call.place in self.again,
                integer_input=call.integer_input,
                head=i >= last,
                normalized=call.feeds_norm or call.place in self._tamed,
                source=call.source,
                reads_input=call.reads,
                rms=call.out.rms,
                input_rms=call.input.rms if call.input else math.nan,
                finite=call.out.finite,
                input_finite=call.input.finite if call.input else True,
                parameters_finite=parameters_finite.get(call.place, True),
                spread=call.out.spread.value,
                input_spread=call.input.spread.value if call.input else math.nan,
                positions=call.out.positions.value,
                input_positions=call.input.positions.value if call.input else math.nan,
            )
            for i, call in enumerate(self._calls)
        )

    def ends(self) -> set[str]:
        """Return the modules with weights that feed no other module: heads, and what is last.

        A table whose rows are added to something, such as one of positions, is none of them.
        """
        sources = {call.source for call in self._calls}
        return {
            call.place for call in self._calls if call.parametric and not call.integer_input
        } - sources

    def backward_calls(self) -> tuple[BackwardCall, ...]:
        """Return how gradients came through the modules, in the order of backward."""

        def finite(entries: list[Entry]) -> bool:
            return all(math.isfinite(entry.value) for entry in entries)

        return tuple(
            BackwardCall(
                place=self._calls[i].place,
                incoming_finite=finite(flow.out),
                outgoing_finite=finite(flow.input),
            )
            for i, flow in self._flows.items()
        )

    @property
    def _hears(self) -> bool:
        """Tell whether this is the forward pass of a training step, and not another training's."""
        return self._measuring and threading.get_ident() == self._thread

    def _enter(self, module: Module, args: Any) -> None:
        if self._hears:
            self._trace.enter(module)
            self._trace.read.difference_update(map(id, tensors_in(args)))

    def _leave(self, module: Module, args: Any, out: Any) -> None:
        if not self._hears:
            self._hear_again(module, out)
            return
        frame = self._trace.leave(module)
        if frame is None:
            return
        try:
            self._measuring = False  # a criterion runs again, on a copy
            with self._functions.deaf():
                self._criterion(frame, args, out)
                if frame.path is not None and frame.leaf:
                    self._measure(frame, args, out)
            self._measuring = True
        except Exception as error:
            self._failed(error)

    def _hear_again(self, module: Module, out: Any) -> None:
        path = self._trace.paths.get(id(module))
        if path and path not in self.again and any(t.requires_grad for t in tensors_in(out)):
            self.again.add(path)

    def _measure(self, frame: Frame, args: Any, out: Any) -> None:
        place = frame.path or type(frame.module).__name__
        self._times[place] += 1
        if self._times[place] > CALLS_PER_MODULE:
            return
        out_tensor, out_values = first_dense(out)
        if out_tensor is None or out_values is None:
            return
        in_tensor, in_values = first_dense(args)
        origin = None if in_tensor is None else self._trace.origin(in_tensor)
        integers = any(not t.is_floating_point() for t in tensors_in(args)) and in_tensor is None
        index = len(self._calls)
        seen = self._values.get(id(in_tensor))
        value = None
        if seen is not None and seen[0]() is in_tensor:
            value = seen[1]
            if _normalizes(frame.module):
                self._calls[seen[2]].feeds_norm = True
        elif in_tensor is not None and in_values is not None:
            value = self._value(in_values)
        result = self._value(out_values)
        self._values[id(out_tensor)] = weakref.ref(out_tensor), result, index
        self._calls.append(
            _Call(
                place=place,
                kind=type(frame.module).__name__,
                parametric=has_parameters(frame.module),
                trained=out_tensor.requires_grad,
                out=result,
                input=value,
                integer_input=integers,
                reads=in_tensor is None or id(in_tensor) in self._trace.read,
                source=origin.place if origin else "",
            )
        )
        # One that returns its own input has made nothing.
        if out_tensor is not in_tensor and self._trace.origin(out_tensor) is None:
            self._trace.note(out_tensor, Origin(place))
        if self._backward:
            self._listen(index, "out", out_tensor)
            if in_tensor is not None:
                self._listen(index, "input", in_tensor)

    def _value(self, values: Tensor) -> _Value:
        note = self._ledger.note
        result = _Value(note(norm(values)), note(total(values)), values.numel())
        for name, rows in (
            ("spread", few_samples(values)),
            ("positions", few_positions(values)),
        ):
            if rows is not None:
                key = rows.device, rows.dtype, rows.shape
                self._rows.setdefault(key, []).append((result, name, rows))
        return result

    def _measure_rows(self) -> None:
        """Measure how much samples and positions differ, in all tables of one shape at once."""
        for alike in self._rows.values():
            found = spreads(torch.stack([rows for _, _, rows in alike]))
            for (value, name, _), entry in zip(alike, self._ledger.note_row(found), strict=True):
                setattr(value, name, entry)
        self._rows = {}

    def _listen(self, index: int, side: str, tensor: Tensor) -> None:
        if not tensor.requires_grad:
            return
        known = self._heard.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            known[2].append((index, side))  # what one module gave is what the next one takes
            return
        ears = [(index, side)]
        self._heard[id(tensor)] = weakref.ref(tensor), tensor._version, ears
        ledger, flows = self._ledger, self._flows

        def hear(gradient: Tensor) -> None:
            # A tensor that is kept goes through backward again, when the look is over.
            over = not self._handles or ledger is not self._ledger
            values = None if over else dense(gradient)
            if values is not None:
                entry = ledger.note(total(values))
                for i, end in ears:
                    getattr(flows.setdefault(i, _Flow()), end).append(entry)

        tensor.register_hook(hear)  # type: ignore[no-untyped-call]  # torch's


def _normalizes(module: Module) -> bool:
    """Tell whether a module sets the scale of its input: norms have ``eps`` and keep the shape."""
    return hasattr(module, "eps") and (
        hasattr(module, "normalized_shape")
        or hasattr(module, "num_groups")
        or hasattr(module, "num_features")
    )
