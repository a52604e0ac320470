"""Products of all predictions with all targets, which end in one mean or sum."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Trace

PRODUCTS = frozenset(["mul", "multiply"])
QUOTIENTS = frozenset(["div", "divide", "true_divide"])
SCALINGS = PRODUCTS | QUOTIENTS
SUMS = frozenset(["add", "sub", "subtract", "__rsub__", "rsub"])
CHOICES = frozenset(["min", "max", "minimum", "maximum"])
SAME = frozenset(
    """neg negative to float double view reshape flatten squeeze unsqueeze clone
    contiguous""".split()
)
REDUCTIONS = frozenset(["mean", "sum", "nanmean", "nansum"])
RECENT = 16
# The root that all products share: whatever says that a step builds pairs on purpose.
PAIRS = 0


@dataclass(frozen=True, slots=True)
class Product:
    """What became of products of all with all.

    Attributes:
        out: What there is now.
        prediction: The side that carries a gradient, of the product that was made first.
        target: The other side.
        roots: Which products it is made of.
        whole: Whether there is still a value for each pair.
    """

    out: Tensor
    prediction: Tensor
    target: Tensor
    roots: frozenset[int]
    whole: bool = True


class Products:
    """Follows products of (N, 1) and (N,) to the number that their mean or sum is.

    What is only scaled, added up and averaged is the product of the two means, in which no sample
    has a target of its own. Nobody means that. Whatever else is done with one of the products says
    that the pairs are wanted: a value for each pair that meets them (a mask, a kernel, a target),
    a function that bends them, a choice among them, another loss. So does a product of predictions
    with each other, as in the distance of two distributions, and an axis that was put into the
    prediction just before.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._products: deque[Product] = deque(maxlen=RECENT)
        self._ends: dict[int, Product] = {}
        self._wanted: set[int] = set()
        self._made = 0

    def clear(self) -> None:
        """Let go of the tensors."""
        self._products.clear()
        self._ends.clear()
        self._wanted.clear()
        self._made = 0

    def meant(self, out: Tensor) -> bool:
        """Tell whether a number is no mean of products, or one of products that are wanted."""
        end = self._ends.get(id(out))
        return end is None or not end.roots.isdisjoint(self._wanted)

    def follow(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> Product | None:
        """Follow a call; return the products if this is their mean or sum."""
        if name in SCALINGS and args and isinstance(out, Tensor):
            self._start(args, out)
        if not self._products:
            return None
        tensors = list(tensors_in((args, kwargs)))
        ours = [p for p in self._products if any(p.out is tensor for tensor in tensors)]
        if not ours or not any(t.requires_grad for t in tensors_in(out, depth=1)):
            return None  # a look at them for a log asks for no gradient
        product = self._next(name, tensors, ours, out)
        if product is None:
            self._wanted.update(*(p.roots - {PAIRS} for p in ours))
        elif name in REDUCTIONS and product.out.numel() == 1:
            self._ends[id(out)] = product
            return product
        else:
            self._products.append(product)
        return None

    def _start(self, args: Sequence[Any], out: Tensor) -> None:
        """Note a product of all with all."""
        left, right = args[0], args[1] if len(args) > 1 else None
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return
        if not all_with_all(left, right, out):
            return
        if left.requires_grad == right.requires_grad:
            if left.requires_grad:
                self._wanted.add(PAIRS)
            return
        prediction, target = (left, right) if left.requires_grad else (right, left)
        materials = {self._trace.marked(tensor).material for tensor in (prediction, target)}
        if materials != {None} or _unsqueezed(prediction):
            return
        self._made += 1
        self._products.append(Product(out, prediction, target, frozenset([PAIRS, self._made])))

    def _next(
        self, name: str, tensors: Sequence[Tensor], ours: Sequence[Product], out: Any
    ) -> Product | None:
        """Return what a function makes of products; None if it does more than to add them up."""
        if not isinstance(out, Tensor):
            return None
        first, others = ours[0], [t for t in tensors if all(t is not p.out for p in ours)]
        roots = frozenset().union(*(p.roots for p in ours))
        after = replace(first, out=out, roots=roots, whole=all(p.whole for p in ours))
        if name in REDUCTIONS:
            return replace(after, whole=False) if not others else None
        if out.numel() != first.out.numel() or any(p.whole != first.whole for p in ours):
            return None
        # A number for each sample may join them as long as there is a value for each pair.
        limit = out.numel() if first.whole else 2
        if any(other.numel() >= limit for other in others):
            return None
        if name in SAME or name in SUMS:
            return after
        if name in CHOICES:
            return after if len(ours) == 2 and not others else None
        scaled = name in PRODUCTS or (name in QUOTIENTS and tensors[0] is first.out)
        # Once: not by itself, nor by another prediction, which would pair predictions.
        single = len(tensors) - len(others) == 1
        paired = any(other.requires_grad and other.numel() > 1 for other in others)
        return after if scaled and single and not paired else None


def all_with_all(one: Tensor, other: Tensor, out: Tensor) -> bool:
    """Tell whether the same values, in two layouts, gave more of them."""
    mine, theirs = ([n for n in t.shape if n != 1] for t in (one, other))
    return mine == theirs and one.ndim != other.ndim and out.numel() > one.numel()


def _unsqueezed(tensor: Tensor) -> bool:
    """Tell whether a tensor has just been given an axis."""
    return tensor.grad_fn is not None and tensor.grad_fn.name() == "UnsqueezeBackward0"
