"""Dropout that is spelled out: a random mask, times what the model made, over what is kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor

from lightning_debug.taps.functions import Listener
from lightning_debug.taps.trace import Trace

DRAWS = frozenset(["rand", "rand_like"])
COINS = frozenset(["bernoulli", "bernoulli_"])
FLOORS = frozenset(["floor", "floor_"])
COMPARES = frozenset(["lt", "le", "gt", "ge", "less", "greater", "less_equal", "greater_equal"])
KEEPS = frozenset(
    """float to type type_as half bfloat16 double bool int long view reshape expand expand_as
    unsqueeze squeeze clone""".split()
)
ADDS = frozenset(["add", "add_", "__radd__"])
DIVIDES = frozenset(["div", "div_", "divide", "true_divide"])
MULTIPLIES = frozenset(["mul", "mul_", "multiply", "__rmul__"])


class _Stage(Enum):
    """What a tensor is, on the way to a dropout."""

    UNIFORM = auto()
    MASK = auto()
    SCALED = auto()
    RAISED = auto()
    MASKED = auto()


class RandomMaskTap(Listener):
    """Hears of random masks that something is multiplied by, and of the division that evens it out.

    A mask alone may be a task (to fill in what is hidden); over what is kept, it is a dropout.

    Args:
        trace: Knows where tensors come from.
        found: Told of each, with the probability to drop.
    """

    names = DRAWS | COINS | FLOORS | COMPARES | KEEPS | ADDS | DIVIDES | MULTIPLIES

    def __init__(self, trace: Trace, found: Callable[[float], None]) -> None:
        self._trace = trace
        self._found = found
        self._known: dict[int, tuple[weakref.ref[Tensor], _Stage, float]] = {}

    def next_batch(self) -> None:
        """Forget the tensors of a batch."""
        self._known = {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a mask."""
        name = getattr(func, "__name__", "")
        if torch.is_grad_enabled() or not isinstance(out, Tensor) or not self._trace.frames:
            return
        if name in COINS:
            self._note(out, _Stage.MASK)
        elif name in DRAWS:
            self._note(out, _Stage.UNIFORM)
        elif args and isinstance(args[0], Tensor):
            self._follow(name, args[0], args[1] if len(args) > 1 else kwargs.get("other"), out)

    def _follow(self, name: str, first: Tensor, other: Any, out: Tensor) -> None:
        stage, kept = self._stage(first)
        number = float(other) if isinstance(other, (int, float)) else 0.0
        if name in MULTIPLIES and isinstance(other, Tensor):
            self._product(first, other, out)
        elif name in KEEPS and stage is not None:
            self._note(out, stage, kept)
        elif stage is _Stage.UNIFORM and (
            name in FLOORS or (name in COMPARES and not isinstance(other, Tensor))
        ):
            self._note(out, _Stage.MASK)
        elif stage is _Stage.UNIFORM and name in ADDS and not isinstance(other, Tensor):
            self._note(out, stage)
        elif name in DIVIDES and 0.0 < number < 1.0:
            self._divided(first, stage, number, out)
        elif name in MULTIPLIES and number > 1.0 and stage is _Stage.MASK:
            self._note(out, _Stage.SCALED, 1.0 / number)

    def _divided(self, first: Tensor, stage: _Stage | None, number: float, out: Tensor) -> None:
        if stage is _Stage.MASK:
            self._note(out, _Stage.SCALED, number)
        elif stage is _Stage.MASKED:
            self._found(1.0 - number)
        elif self._trace.origin(first) is not None:
            self._note(out, _Stage.RAISED, number)

    def _product(self, one: Tensor, other: Tensor, out: Tensor) -> None:
        """Follow a product of a mask and something that the model made."""
        for mask, values in ((one, other), (other, one)):
            (stage, kept), (of, raised) = self._stage(mask), self._stage(values)
            if stage not in (_Stage.MASK, _Stage.SCALED) or self._trace.origin(values) is None:
                continue
            if stage is _Stage.SCALED or of is _Stage.RAISED:
                self._found(1.0 - (kept if stage is _Stage.SCALED else raised))
            else:
                self._note(out, _Stage.MASKED)

    def _note(self, tensor: Tensor, stage: _Stage, kept: float = 0.0) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), stage, kept

    def _stage(self, tensor: Tensor) -> tuple[_Stage | None, float]:
        found = self._known.get(id(tensor))
        return (found[1], found[2]) if found and found[0]() is tensor else (None, 0.0)
