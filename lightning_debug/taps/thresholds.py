"""How the program makes classes of the predictions of a loss."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_debug.observation import Threshold
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.trace import Trace

SAME = frozenset(
    """squeeze unsqueeze view reshape flatten detach float double clone cpu to contiguous
    __getitem__ view_as reshape_as half bfloat16 type squeeze_ ravel""".split()
)
SIGMOIDS = frozenset(["sigmoid", "sigmoid_", "expit"])
ABOVE = frozenset(["gt", "ge", "__gt__", "__ge__", "greater", "greater_equal"])
ROUNDS = frozenset(["round"])
EQUALS = frozenset(["eq", "__eq__"])
SHARES = frozenset(["softmax", "log_softmax", "logsigmoid"])
LARGEST = frozenset(["max", "amax", "topk"])
# What may turn a prediction into classes where it stands.
WRITES = frozenset(
    """__setitem__ round_ floor_ ceil_ trunc_ sign_ heaviside_ gt_ ge_ lt_ le_ clamp_ clip_ copy_
    fill_ zero_ masked_fill_ masked_scatter_ index_fill_ index_copy_ scatter_ add_ sub_ mul_ div_
    __iadd__ __isub__ __imul__ __itruediv__""".split()
)
JOINS = frozenset(["mul", "__mul__", "__and__", "bitwise_and", "logical_and"])
ANSWERS = frozenset(["all", "any"])
LOGIT_LOSSES = frozenset(
    ["binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss"]
)
CLASS_LOSSES = LOGIT_LOSSES | {"cross_entropy", "nll_loss", "binary_cross_entropy"}
MOST = 64


@dataclass(eq=False, slots=True)
class _Made:
    """A comparison with a number, or with other values: classes, unless it asks for all of them."""

    root: int
    function: str
    value: float
    place: str
    asked: bool = False
    other: int = 0


class ThresholdTap(Listener):
    """Hears which tensors are the predictions of a loss, and which are compared with what.

    Either may come first, so both are kept until the end of the step. Views and casts count as
    the tensor that they were made of. A comparison that only answers a question, as whether all
    values lie between 0 and 1, makes no classes. What is compared for equality with classes
    should be classes.

    Args:
        trace: Knows the module that runs.
        place: Where it is in no module.
    """

    names = (
        frozenset().union(SAME, SIGMOIDS, SHARES, LARGEST, ABOVE, ROUNDS, EQUALS, JOINS, ANSWERS)
        | WRITES
        | CLASS_LOSSES
    )

    def __init__(self, trace: Trace, place: str) -> None:
        self._trace = trace
        self._place = place
        self._roots: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._sigmoids: dict[int, int] = {}
        self._logits: set[int] = set()
        self._scores: set[int] = set()
        self._shares: set[int] = set()
        self._largest: dict[int, int] = {}
        self._classes: set[int] = set()
        self._written: set[int] = set()
        self._made: list[_Made] = []
        self._masks: dict[int, tuple[weakref.ref[Tensor], _Made]] = {}
        self._roots_made = 0

    def begin(self) -> None:
        """Start a step."""
        self._roots, self._sigmoids = {}, {}
        self._logits, self._made, self._masks = set(), [], {}
        self._scores, self._shares, self._largest = set(), set(), {}
        self._classes, self._written = set(), set()

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a tensor, or note what was made of it."""
        name = getattr(func, "__name__", "")
        tensor = args[0] if args else kwargs.get("input")
        if name in LARGEST and isinstance(out, tuple):
            out = out[0]
        if name in WRITES and isinstance(tensor, Tensor):
            self._written.add(self._root(tensor))
        if not isinstance(tensor, Tensor) or not isinstance(out, Tensor):
            return
        if name in JOINS or name in ANSWERS:
            self._follow_mask(name, args, out)
        if name in SAME:
            self._roots[id(out)] = weakref.ref(out), self._root(tensor)
        if tensor.is_floating_point() and name not in SAME:
            self._note(name, tensor, args[1] if len(args) > 1 else None, kwargs, out)
        elif name in EQUALS and len(args) > 1 and isinstance(args[1], Tensor):
            self._equal(args[1], tensor, out)

    def _note(
        self, name: str, tensor: Tensor, other: Any, kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        """Note what was made of floating point numbers."""
        root = self._root(tensor)
        place = self._trace.place or self._place
        if name in CLASS_LOSSES:
            self._scores.add(root)
            target = kwargs.get("target", other)
            if isinstance(target, Tensor):
                self._classes.add(self._root(target))
            if name in LOGIT_LOSSES:
                self._logits.add(root)
        elif name in SIGMOIDS and out is not tensor:
            self._sigmoids[self._root(out)] = root
        elif name in SHARES:
            self._shares.add(self._root(out))
        elif name in LARGEST and out.numel() < tensor.numel():
            self._largest[self._root(out)] = root
        elif name in EQUALS and isinstance(other, Tensor):
            self._equal(tensor, other, out)
        elif len(self._made) < MOST and name in ROUNDS and not kwargs.get("decimals"):
            self._made.append(_Made(root, "round", 0.5, place))
        elif len(self._made) < MOST and name in ABOVE:
            other = kwargs.get("other") if other is None else other
            if isinstance(other, (int, float)):
                self._compared(_Made(root, "gt", float(other), place), out)

    def _equal(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Note that values were compared with each other, the predictions on either side."""
        for tensor in (left, right):
            if not tensor.is_floating_point() and tensor.numel() > 1:
                self._classes.add(self._root(tensor))
        scores = left.is_floating_point() or right.is_floating_point()
        if scores and len(self._made) < MOST:
            place = self._trace.place or self._place
            roots = self._root(left), self._root(right)
            self._compared(_Made(roots[0], "eq", math.nan, place, other=roots[1]), out)

    def _compared(self, made: _Made, out: Tensor) -> None:
        self._made.append(made)
        self._masks[id(out)] = weakref.ref(out), made

    def take(self) -> tuple[Threshold, ...]:
        """Return the comparisons of logits and of their probabilities in this step."""
        found: list[Threshold | None] = []
        for made in self._made:
            if made.asked:
                continue
            if made.function == "eq":
                found.append(self._unequal(made))
                continue
            # What a sigmoid gave is a probability, also where a loss takes it for logits.
            logits = made.root in self._logits and made.root not in self._sigmoids
            known = made.root in self._logits or self._sigmoids.get(made.root) in self._logits
            if known:
                found.append(_told(made, logits=logits))
        self.begin()
        return tuple(one for one in dict.fromkeys(found) if one is not None)

    def _unequal(self, made: _Made) -> Threshold | None:
        """Return a comparison of predictions that are no classes with classes."""
        for root, other in ((made.root, made.other), (made.other, made.root)):
            source = self._largest.get(root, root)
            shares = source in self._shares or source in self._sigmoids
            scores = (shares or source in self._scores) and root not in self._classes
            if scores and other in self._classes and root not in self._written:
                return _told(made, logits=not shares, largest=source != root)
        return None

    def _follow_mask(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        """Follow what a comparison gave until one answer is made of all of it."""
        for tensor in args:
            known = self._masks.get(id(tensor))
            if known is None or known[0]() is not tensor:
                continue
            if name in JOINS:
                self._masks[id(out)] = weakref.ref(out), known[1]
            elif out.numel() == 1:
                known[1].asked = True

    def _root(self, tensor: Tensor) -> int:
        """Return a number that stands for a tensor and for all its views."""
        known = self._roots.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        self._roots_made += 1
        self._roots[id(tensor)] = weakref.ref(tensor), self._roots_made
        return self._roots_made


def _told(made: _Made, *, logits: bool, largest: bool = False) -> Threshold:
    return Threshold(
        place=made.place, function=made.function, value=made.value, logits=logits, largest=largest
    )
