"""How the program makes classes of the logits of a binary loss."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
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
LOGIT_LOSSES = frozenset(
    ["binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss"]
)
MOST = 64


class ThresholdTap(Listener):
    """Hears which tensors are the logits of a binary loss, and which are compared with what.

    Either may come first, so both are kept until the end of the step. Views and casts count as
    the tensor that they were made of.

    Args:
        trace: Knows the module that runs.
        place: Where it is in no module.
    """

    names = SAME | SIGMOIDS | ABOVE | ROUNDS | LOGIT_LOSSES

    def __init__(self, trace: Trace, place: str) -> None:
        self._trace = trace
        self._place = place
        self._roots: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._sigmoids: dict[int, int] = {}
        self._logits: set[int] = set()
        self._made: list[tuple[int, str, float, str]] = []
        self._roots_made = 0

    def begin(self) -> None:
        """Start a step."""
        self._roots, self._sigmoids = {}, {}
        self._logits, self._made = set(), []

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a tensor, or note what was made of it."""
        name = getattr(func, "__name__", "")
        tensor = args[0] if args else kwargs.get("input")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return
        root = self._root(tensor)
        if name in LOGIT_LOSSES:
            self._logits.add(root)
        elif name in SAME and isinstance(out, Tensor):
            self._roots[id(out)] = weakref.ref(out), root
        elif name in SIGMOIDS and isinstance(out, Tensor) and out is not tensor:
            self._sigmoids[self._root(out)] = root
        elif len(self._made) < MOST and name in ROUNDS and not kwargs.get("decimals"):
            self._made.append((root, "round", 0.5, self._trace.place or self._place))
        elif len(self._made) < MOST and name in ABOVE:
            other = args[1] if len(args) > 1 else kwargs.get("other")
            if isinstance(other, (int, float)):
                self._made.append((root, "gt", float(other), self._trace.place or self._place))

    def take(self) -> tuple[Threshold, ...]:
        """Return the comparisons of logits and of their probabilities in this step."""
        found = []
        for root, function, value, place in self._made:
            # What a sigmoid gave is a probability, also where a loss takes it for logits.
            logits = root in self._logits and root not in self._sigmoids
            if root in self._logits or self._sigmoids.get(root) in self._logits:
                found.append(Threshold(place=place, function=function, value=value, logits=logits))
        self.begin()
        return tuple(dict.fromkeys(found))

    def _root(self, tensor: Tensor) -> int:
        """Return a number that stands for a tensor and for all its views."""
        known = self._roots.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        self._roots_made += 1
        self._roots[id(tensor)] = weakref.ref(tensor), self._roots_made
        return self._roots_made
