"""The computation from the last layers to the loss, run again with constants for predictions.

A handwritten loss is no call that could be made again with other arguments. But the functions
that the training step called are known, so its last part can be: everything from the outputs of
the last weight layers on.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_debug.taps.functions import MIXERS, Listener
from lightning_debug.taps.statistics import bare, tensors_in

BUDGET = 64 * 2**20
WRITES = frozenset(["__setitem__"])
# What draws random numbers, or counts in buffers.
UNREPEATABLE = (
    "batch_norm",
    "instance_norm",
    "dropout",
    "bernoulli",
    "multinomial",
    "rand",
    "normal",
    "exponential",
    "gumbel",
    "uniform",
    "feature_alpha",
    "alpha_dropout",
)
# Functions that turn any number into a share or its logarithm: what follows is a classification.
SQUASHES = frozenset(
    """softmax log_softmax sigmoid logsigmoid sigmoid_ softplus logsumexp log_sigmoid
    cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits""".split()
)


@dataclass(frozen=True, slots=True)
class Replay:
    """A loss of constant predictions.

    Attributes:
        value: The loss that backward started from.
        zero: The same computation with zeros for every prediction; nan where samples do not have
            losses of their own.
        squashed: Whether a softmax or sigmoid lies between prediction and loss.
        size: Number of elements of the predictions.
        square: Sum of squares of the predictions.
    """

    value: Tensor
    zero: Tensor
    squashed: bool
    size: int
    square: Tensor


@dataclass(frozen=True, slots=True)
class _Step:
    func: Callable[..., Any]
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any


class ReplayTap(Listener):
    """Keeps the last functions of the forward pass, up to a budget of memory, for one look."""

    names = WRITES
    everything = True

    def __init__(self) -> None:
        self._on = False
        self._written = False
        self._steps: deque[tuple[_Step, int]] = deque()
        self._bytes = 0

    def begin(self, *, wanted: bool) -> None:
        """Start a look."""
        self._on, self._written = wanted, False
        self._clear()

    def end(self) -> None:
        """Let go of the tensors."""
        self._on = False
        self._clear()

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Keep a call."""
        name = getattr(func, "__name__", "")
        if name in WRITES:
            self._written = self._written or getattr(args[0], "requires_grad", False)
        if not self._on or name in WRITES:
            return
        kept = itertools.chain(tensors_in(out, depth=1), tensors_in(args))
        size = sum(t.numel() * t.element_size() for t in kept if not is_lazy(t))
        self._steps.append((_Step(func, name, args, kwargs, out), size))
        self._bytes += size
        while self._bytes > BUDGET:
            self._bytes -= self._steps.popleft()[1]

    def zeroed(self, loss: Tensor) -> Replay | None:
        """Run the end of the computation again; None if it cannot be run on other values.

        It can where nothing is drawn or overwritten on the way. That samples have losses of
        their own shows in the loss being additive: what zeros change in the first half of the
        batch and what they change in the second is all that they change. A contrastive loss is
        not.
        """
        if not self._on or self._written:
            return None
        steps = [step for step, _ in self._steps]
        predictions, squashed = _predictions(steps, loss)
        samples = {p.shape[0] for p in predictions if p.ndim}
        if not predictions or len(samples) != 1 or samples == {1}:
            return None
        half = samples.pop() // 2
        with torch.no_grad():
            zero = _run(steps, loss, {id(p): torch.zeros_like(p) for p in predictions})
            first = _run(steps, loss, {id(p): _halved(p, slice(0, half)) for p in predictions})
            second = _run(steps, loss, {id(p): _halved(p, slice(half, None)) for p in predictions})
            if zero is None or first is None or second is None:
                return None
            value = bare(loss)
            rest = (first + second - value - zero).abs()
            alone = rest <= 1e-3 * (value.abs() + zero.abs())
            square = torch.stack([bare(p).float().square().sum() for p in predictions]).sum()
            nothing = torch.full_like(zero, float("nan"))
            return Replay(
                value=value.clone(),
                zero=torch.where(alone, zero, nothing),
                squashed=squashed,
                size=sum(p.numel() for p in predictions),
                square=square,
            )

    def _clear(self) -> None:
        self._steps.clear()
        self._bytes = 0


def _predictions(steps: Sequence[_Step], loss: Tensor) -> tuple[list[Tensor], bool]:
    """Return what the last weight layers made on the way to the loss.

    Also whether it went through a softmax or sigmoid. Nothing if the way is not known to its end.
    """
    needed = {id(loss)}
    found: list[Tensor] = []
    squashed = False
    for step in reversed(steps):
        made = [t for t in tensors_in(step.out, depth=1) if id(t) in needed]
        if not made:
            continue
        inputs = [t for t in tensors_in((step.args, step.kwargs)) if t.requires_grad]
        in_place = any(t is m for t in inputs for m in made)
        if not in_place:
            needed.difference_update(map(id, made))
        # A product that is one number, as a sum of squares, is no layer.
        if step.name in MIXERS and all(t.ndim for t in made):
            found += made
        else:
            squashed = squashed or step.name in SQUASHES
            needed.update(id(t) for t in inputs if not t.is_leaf)
    return ([] if needed else found), squashed


def _halved(tensor: Tensor, part: slice) -> Tensor:
    changed = tensor.detach().clone()
    changed[part] = 0
    return changed


def _run(steps: Sequence[_Step], loss: Tensor, values: dict[int, Tensor]) -> Tensor | None:
    """Run those steps again that depend on the given values; None if one cannot be."""

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            return values.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(swap(item) for item in value)
        return value

    start = set(values)
    for step in steps:
        made = list(tensors_in(step.out, depth=1))
        taken = list(tensors_in((step.args, step.kwargs)))
        if not any(id(t) in values for t in taken) or any(id(t) in start for t in made):
            continue
        in_place = any(m is t for m in made for t in taken)
        if step.name.startswith(UNREPEATABLE) or (in_place and id(step.out) not in values):
            return None
        if step.name == "grad":
            return None  # a derivative in the loss, for which there is no graph here
        if step.name.endswith("_like") or step.name in ("backward", "register_hook"):
            continue
        result = step.func(*swap(tuple(step.args)), **{k: swap(v) for k, v in step.kwargs.items()})
        values.update(zip(map(id, made), tensors_in(result, depth=1), strict=False))
    out = values.get(id(loss))
    return bare(out).reshape(()) if out is not None and out.numel() == 1 else None
