"""How the program makes classes of the logits of a binary loss."""

from __future__ import annotations

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
JOINS = frozenset(["mul", "__mul__", "__and__", "bitwise_and", "logical_and"])
ANSWERS = frozenset(["all", "any"])
LOGIT_LOSSES = frozenset(
    ["binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss"]
)
MOST = 64


@dataclass(eq=False, slots=True)
class _Made:
    """A comparison with a number: classes, unless it is asked whether it holds of all."""

    root: int
    function: str
    value: float
    place: str
    asked: bool = False


class ThresholdTap(Listener):
    """Hears which tensors are the logits of a binary loss, and which are compared with what.

    Either may come first, so both are kept until the end of the step. Views and casts count as
    the tensor that they were made of. A comparison that only answers a question, as whether all
    values lie between 0 and 1, makes no classes.

    Args:
        trace: Knows the module that runs.
        place: Where it is in no module.
    """

    names = SAME | SIGMOIDS | ABOVE | ROUNDS | JOINS | ANSWERS | LOGIT_LOSSES

    def __init__(self, trace: Trace, place: str) -> None:
        self._trace = trace
        self._place = place
        self._roots: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._sigmoids: dict[int, int] = {}
        self._logits: set[int] = set()
        self._made: list[_Made] = []
        self._masks: dict[int, tuple[weakref.ref[Tensor], _Made]] = {}
        self._roots_made = 0

    def begin(self) -> None:
        """Start a step."""
        self._roots, self._sigmoids = {}, {}
        self._logits, self._made, self._masks = set(), [], {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a tensor, or note what was made of it."""
        name = getattr(func, "__name__", "")
        tensor = args[0] if args else kwargs.get("input")
        if not isinstance(tensor, Tensor) or not isinstance(out, Tensor):
            return
        if name in JOINS or name in ANSWERS:
            self._follow_mask(name, args, out)
        if not tensor.is_floating_point():
            return
        root = self._root(tensor)
        if name in LOGIT_LOSSES:
            self._logits.add(root)
        elif name in SAME:
            self._roots[id(out)] = weakref.ref(out), root
        elif name in SIGMOIDS and out is not tensor:
            self._sigmoids[self._root(out)] = root
        elif len(self._made) < MOST and name in ROUNDS and not kwargs.get("decimals"):
            self._made.append(_Made(root, "round", 0.5, self._trace.place or self._place))
        elif len(self._made) < MOST and name in ABOVE:
            other = args[1] if len(args) > 1 else kwargs.get("other")
            if isinstance(other, (int, float)):
                made = _Made(root, "gt", float(other), self._trace.place or self._place)
                self._made.append(made)
                self._masks[id(out)] = weakref.ref(out), made

    def take(self) -> tuple[Threshold, ...]:
        """Return the comparisons of logits and of their probabilities in this step."""
        found = []
        for made in self._made:
            # What a sigmoid gave is a probability, also where a loss takes it for logits.
            logits = made.root in self._logits and made.root not in self._sigmoids
            known = made.root in self._logits or self._sigmoids.get(made.root) in self._logits
            if known and not made.asked:
                found.append(
                    Threshold(
                        place=made.place, function=made.function, value=made.value, logits=logits
                    )
                )
        self.begin()
        return tuple(dict.fromkeys(found))

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
