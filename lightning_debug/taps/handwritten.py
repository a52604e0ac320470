"""Losses that the training step spells out instead of calling."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F

from lightning_debug.taps.functions import Listener
from lightning_debug.taps.graph import nearby
from lightning_debug.taps.loss_heard import Heard
from lightning_debug.taps.products import QUOTIENTS, REDUCTIONS, Products, all_with_all
from lightning_debug.taps.statistics import bare
from lightning_debug.taps.trace import Trace

SUBTRACTS = frozenset(["sub", "subtract", "__rsub__", "rsub"])
SQUARES = frozenset(["pow", "square", "float_power"])
ABSOLUTES = frozenset(["abs", "absolute"])
NORMS = frozenset(["norm", "vector_norm", "linalg_vector_norm", "linalg_norm"])
LOGARITHMS = frozenset(["log", "log2", "log10", "log1p"])
BOUNDS = frozenset(["clamp", "clamp_min", "clamp_max", "clip", "add"])
# What an error goes through value by value. No exponential and no quotient of it: kernels are that.
BENDS = frozenset(
    """mul multiply div divide true_divide add sub subtract __rsub__ rsub neg negative abs absolute
    pow square float_power sqrt max min maximum minimum fmax fmin where relu leaky_relu clamp
    clamp_min clamp_max clip cosh log log1p softplus to float double view reshape flatten""".split()
)
SCALINGS = QUOTIENTS | {"mul", "multiply"}
LEVELS = REDUCTIONS | NORMS
OWN_ERROR = "handwritten error"
OWN_PRODUCT = "handwritten product"
RECENT = 16
DEEP = 24
WIDE = 400


@dataclass(frozen=True, slots=True)
class _Difference:
    """A prediction minus a target."""

    out: Tensor
    prediction: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class _Spread:
    """What became of a difference of all predictions with all targets.

    Attributes:
        function: The kind of error that was made of it; empty for the difference itself.
        whole: Whether there is still a value for each pair.
    """

    out: Tensor
    prediction: Tensor
    target: Tensor
    function: str = ""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class _Share:
    """A softmax of logits, or its logarithm."""

    out: Tensor
    logits: Tensor
    axis: int
    logarithm: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """A loss that was recognised, and where."""

    function: str
    place: str
    prediction: Tensor
    target: Tensor
    out: Tensor
    axis: int = 1

    def heard(self) -> Heard:
        """Return it as if it had been called."""
        if self.function == "cross_entropy":
            prediction, target = self.prediction.movedim(self.axis, 1), bare(self.target)
            shape = prediction.shape[:1] + prediction.shape[2:]
            soft = target.is_floating_point()
            target = target.movedim(self.axis, 1) if soft else target.reshape(shape)
        else:
            prediction, target = self.prediction, self.target

        def again(constant: Tensor) -> Tensor:
            if self.function == "cross_entropy":
                return F.cross_entropy(constant, target)
            difference = constant - target
            return difference.abs() if self.function == "absolute error" else difference.square()

        bent = self.function in (OWN_ERROR, OWN_PRODUCT)
        kind = "logits" if self.function == "cross_entropy" else "regression"
        with torch.no_grad():
            value = self.out.detach() if bent else again(prediction.detach())
        return Heard(
            function=self.function,
            kind="other" if bent else kind,
            place=self.place,
            prediction=prediction,
            target=target,
            given=self.target,
            value=value,
            node=self.out.grad_fn,
            parts=self.out if self.out.numel() > 1 else None,
            again=None if bent else again,
        )


class HandwrittenTap(Listener):
    """Recognises squared and absolute errors and cross entropies by what they are made of.

    A difference is one where exactly one side carries a gradient: that is the prediction. A cross
    entropy picks (``gather``, an index) or weighs (a product with the targets) the logarithm of a
    softmax. Both count only if the loss that backward starts from is made of them.

    A difference of (N, 1) and (N,) is one of all with all. It counts whatever it is scaled, weighed
    or bent by, but only where it keeps its shape until one mean or sum is taken of all of it:
    kernels, nearest neighbours and features of knots build such differences on purpose. A product
    of all with all counts where nothing but sums and means is made of it.
    """

    everything = True

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._on = False
        self._differences: deque[_Difference] = deque(maxlen=RECENT)
        self._shares: deque[_Share] = deque(maxlen=RECENT)
        self._spreads: deque[_Spread] = deque(maxlen=RECENT)
        self._products = Products(trace)
        self._found: dict[int, _Found] = {}

    def begin(self, *, wanted: bool) -> None:
        """Start a look."""
        self._on = wanted
        self.end()

    def end(self) -> None:
        """Let go of the tensors."""
        self._differences.clear()
        self._shares.clear()
        self._spreads.clear()
        self._products.clear()
        self._found.clear()

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a call."""
        if not self._on:
            return
        name = getattr(func, "__name__", "")
        product = self._products.follow(name, args, kwargs, out)
        if product is not None:
            self._note(OWN_PRODUCT, product.prediction, product.target, product.out)
        if not isinstance(out, Tensor) or not out.requires_grad or not args:
            return
        first, second = args[0], args[1] if len(args) > 1 else None
        if self._spreads:
            self._bend(name, args, out)
        if name in SUBTRACTS and isinstance(first, Tensor) and isinstance(second, Tensor):
            self._subtract(first, second, out)
        elif name in SQUARES:
            self._error("squared error", first, out)
        elif name in ABSOLUTES:
            self._error("absolute error", first, out)
        elif name in NORMS:
            self._error("distance", first, out)
        elif name in ("softmax", "log_softmax"):
            axis = kwargs.get("dim", second)
            if isinstance(first, Tensor) and isinstance(axis, int):
                self._shares.append(_Share(out, first, axis % first.ndim, name == "log_softmax"))
        elif name in LOGARITHMS or name in BOUNDS:
            share = self._share(first)
            if share is not None:
                logarithm = share.logarithm or name in LOGARITHMS
                self._shares.append(_Share(out, share.logits, share.axis, logarithm))
        elif name == "gather":
            self._pick(first, kwargs.get("index", args[2] if len(args) > 2 else None), out)
        elif name == "__getitem__" and isinstance(second, tuple):
            self._pick(first, second[-1], out)
        elif name in ("mul", "multiply"):
            self._multiply(first, second, out)

    def heard(self, loss: Tensor) -> list[Heard]:
        """Return the losses that are part of this one, in the order in which they were made."""
        if not self._found or loss.grad_fn is None:
            return []
        near = set(itertools.islice(nearby(loss.grad_fn, DEEP), WIDE))
        made = [found for found in self._found.values() if found.out.grad_fn in near]
        return [found.heard() for found in made if not self._wanted(found)]

    def _wanted(self, found: _Found) -> bool:
        """Tell whether it is a product of all with all on purpose."""
        return found.function == OWN_PRODUCT and self._products.meant(found.out)

    def _subtract(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        if left.requires_grad == right.requires_grad:
            return
        prediction, target = (left, right) if left.requires_grad else (right, left)
        if prediction.numel() < 2 or target.numel() < 2:
            return
        if not all_with_all(prediction, target, out):
            self._differences.append(_Difference(out, prediction, target))
        elif self._pairs(prediction, target):
            self._spreads.append(_Spread(out, prediction, target))

    def _pairs(self, prediction: Tensor, target: Tensor) -> bool:
        """Tell whether there are data in both: knots are made of weights alone."""
        return {self._trace.marked(tensor).material for tensor in (prediction, target)} == {None}

    def _bend(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        """Follow a difference of all with all to the number that its mean or sum is."""
        given = args[:1] if name in QUOTIENTS or name in LEVELS else args
        spread = next((s for s in self._spreads if any(s.out is value for value in given)), None)
        if spread is None:
            return
        function = spread.function or _error_of(name, args)
        if name in LEVELS and function and out.numel() == 1:
            self._note(function, spread.prediction, spread.target, out)
        elif name in LEVELS and function:
            self._spreads.append(replace(spread, out=out, function=function, whole=False))
        elif name in (BENDS if spread.whole else SCALINGS) and out.numel() == spread.out.numel():
            # What the model gave for other samples may be ranked against its predictions.
            own = OWN_ERROR if self._trace.origin(spread.target) is None else ""
            if function or own:
                self._spreads.append(replace(spread, out=out, function=function or own))

    def _error(self, name: str, value: Any, out: Tensor) -> None:
        """Note the square or the size of a difference."""
        known = next((d for d in self._differences if d.out is value), None)
        if known is not None:
            self._note(name, known.prediction, known.target, out)

    def _pick(self, value: Any, index: Any, out: Tensor) -> None:
        """Note the log-probabilities of the true classes."""
        share = self._share(value)
        if share is None or not share.logarithm or not isinstance(index, Tensor):
            return
        if index.is_floating_point() or index.dtype is torch.bool:
            return
        logits = share.logits
        if logits.ndim > 1 and index.numel() * logits.shape[share.axis] == logits.numel():
            self._note("cross_entropy", logits, index, out, share.axis)

    def _multiply(self, left: Any, right: Any, out: Tensor) -> None:
        """Note a product of targets and log-probabilities, or of an error with itself."""
        if left is right:
            self._error("squared error", left, out)
            return
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return
        for share, target in ((self._share(left), right), (self._share(right), left)):
            if share is None or not share.logarithm or target.requires_grad:
                continue
            if target.shape == share.out.shape and target.is_floating_point() and target.ndim > 1:
                self._note("cross_entropy", share.logits, target, out, share.axis)
                return
        # The log-probability of an action times its advantage is no cross entropy.
        for factor, other in ((left, right), (right, left)):
            if other.numel() > 1 and not other.requires_grad:
                self._drop(factor)

    def _drop(self, value: Tensor) -> None:
        """Forget the cross entropy that a value is, apart from its sign and shape."""
        nodes = set(itertools.islice(_chain(value.grad_fn), 5))
        for key, found in list(self._found.items()):
            if found.function == "cross_entropy" and found.out.grad_fn in nodes:
                del self._found[key]

    def _note(
        self, function: str, prediction: Tensor, target: Tensor, out: Tensor, axis: int = 1
    ) -> None:
        if len(self._found) < RECENT:
            place = self._trace.place or "training_step"
            self._found[id(out)] = _Found(function, place, prediction, target, out, axis)

    def _share(self, value: Any) -> _Share | None:
        return next((s for s in reversed(self._shares) if s.out is value), None)


def _error_of(name: str, args: Sequence[Any]) -> str:
    """Return what a function makes of a difference, if it is one of the known errors."""
    if name in SQUARES or (name in ("mul", "multiply") and args[0] is args[1]):
        return "squared error"
    if name in ABSOLUTES:
        return "absolute error"
    return "distance" if name in NORMS else ""


def _chain(node: Node | None) -> Iterator[Node]:
    """Yield a node and those before it, as long as each has one input."""
    while node is not None:
        yield node
        before = [after for after, _ in node.next_functions if after is not None]
        node = before[0] if len(before) == 1 else None
