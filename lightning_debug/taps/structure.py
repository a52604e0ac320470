"""The network as it is executed: which modules run, and which of them feed which."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor
from torch.nn import Module, Parameter

from lightning_debug.picture import Network, Picture
from lightning_debug.taps.data import named_tensors
from lightning_debug.taps.drawing import LOSS, Drawing, Event, joined, shape_of
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Frame, Trace
from lightning_debug.taps.transfer import Ledger

MOST_INPUTS = 64
MOST_EVENTS = 50_000
MOST_RECORDINGS = 4
OPERATORS = frozenset("add sub mul matmul truediv floordiv mod pow and or xor".split())


class _Tokens:
    """A number for each content of a tensor: one that is written over gets another."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._count = 0

    def of(self, tensors: Iterable[Tensor]) -> list[int]:
        """Return those of the tensors that have one."""
        found = ((tensor, self._known.get(id(tensor))) for tensor in tensors)
        # Identities are used again when a tensor dies; the weak reference tells.
        return [known[1] for tensor, known in found if known and known[0]() is tensor]

    def fresh(self, tensors: Iterable[Tensor]) -> list[int]:
        """Give each tensor a new one."""
        return [self._new(tensor) for tensor in tensors]

    def _new(self, tensor: Tensor) -> int:
        self._count += 1
        self._known[id(tensor)] = weakref.ref(tensor), self._count
        return self._count


class StructureTap(LookTap, Listener):
    """Draws the network from one training step: boxes that ran, and the tensors between them.

    At the first look; and again, a few times at most, when modules have run that did not then.
    The later pictures hold all that was drawn so far.

    Args:
        trace: Knows which module runs.
        model: The module that is trained.
        failed: Called with an exception of our own, raised while the step runs.
    """

    name = "the tap on the structure"
    draws = True
    everything = True
    # It gives no tensor, but writes into one.
    names = frozenset(["__setitem__"])

    def __init__(self, trace: Trace, model: Module, failed: Callable[[Exception], None]) -> None:
        self._trace = trace
        self._model = model
        self._failed = failed
        self._recording = False
        self._left_to_make = MOST_RECORDINGS
        self._step = 0
        self._drawn: set[str] = set()
        self._due = True
        self._fresh = False
        self._network: Network | None = None
        self._inputs: list[tuple[str, Tensor, int]] = []
        self._tokens = _Tokens()
        self._events: list[Event] = []

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start to record, if there is something new."""
        self._recording = self._due and self._left_to_make > 0
        if self._recording:
            self._step = step
            self._tokens, self._events = _Tokens(), []
            named = list(islice(named_tensors(batch), MOST_INPUTS))
            tokens = self._tokens.fresh(tensor for _, tensor in named)
            self._inputs = [(*pair, token) for pair, token in zip(named, tokens, strict=True)]

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of a function and its result."""
        if not self._recording:
            return
        try:
            self._hear(getattr(func, "__name__", "") or "function", args, kwargs, out)
        except Exception as error:
            self._recording = False
            self._failed(error)

    def left(self, frame: Frame, args: Any, out: Any) -> None:
        """Note that a module has run."""
        if not self._recording:
            return
        taken, given = list(tensors_in(args)), list(tensors_in(out))
        inputs = self._tokens.of(taken)
        name, home = "", self._home(frame)
        if home is not frame or not frame.leaf:
            # What a function made that cannot be heard, such as one of a library of kernels.
            given = [tensor for tensor in given if not self._tokens.of([tensor])]
            name = type(frame.module).__name__
            if not given:
                return
        shapes = shape_of(given), shape_of(taken)
        self._note(Event(name, home, inputs, self._tokens.fresh(given), shapes=shapes))

    def before_backward(self, loss: Tensor) -> None:
        """Note what backward starts from."""
        if self._recording:
            shapes = shape_of([loss]), ()
            self._note(Event(LOSS, None, self._tokens.of([loss]), shapes=shapes))

    def end(self) -> None:
        """Draw what was recorded, and see whether there is anything new to record."""
        ran = self._trace.ran.keys()
        if self._recording:
            drawing = Drawing(self._model, self._events)
            network = drawing.network(self._inputs, self._step)
            self._network = joined(self._network, network) if self._network else network
            self._left_to_make -= 1
            self._drawn |= ran
            self._fresh, self._recording = True, False
        self._due = not ran <= self._drawn
        self._inputs, self._events, self._tokens = [], [], _Tokens()

    def pictures(self, step: int) -> Iterator[Picture]:
        """Return the network, where it is new."""
        if self._fresh and self._network is not None:
            self._fresh = False
            yield self._network

    def _hear(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        taken = list(tensors_in((args, kwargs)))
        given = list(tensors_in(args[:1] if name == "__setitem__" else out, depth=1))
        if not given:
            return
        inputs = self._tokens.of(taken)
        if name.endswith("_like") or name.startswith("new_"):
            inputs = []  # only the shape goes in
        # What is written into a view is in its base as well.
        bases = [t._base for t in given if any(t is other for other in taken)]
        written = [base for base in bases if base is not None]
        weights = [self._trace.own(t) for t in taken if isinstance(t, Parameter)]
        outputs = self._tokens.fresh([*given, *written])
        shapes = shape_of(given), shape_of(taken)
        self._note(Event(_readable(name), self._home(), inputs, outputs, weights, shapes))

    def _home(self, frame: Frame | None = None) -> Frame | None:
        """Return the innermost module of the model that runs, or that has just run."""
        if frame is not None and frame.path is not None:
            return frame
        running = reversed(self._trace.frames)
        return next((frame for frame in running if frame.path is not None), None)

    def _note(self, event: Event) -> None:
        if len(self._events) < MOST_EVENTS:
            self._events.append(event)


def _readable(name: str) -> str:
    """Return the name of a function as a reader knows it: ``"__radd__"`` and ``"add_"`` add."""
    bare = name.strip("_")
    if name.startswith("__") and bare[:1] in "ri" and bare[1:] in OPERATORS:
        bare = bare[1:]
    return "div" if bare == "truediv" else bare
