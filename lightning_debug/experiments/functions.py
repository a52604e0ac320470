"""The ``autograd.Function`` classes that a training step applies, each checked on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_debug.experiments.batches import duplicate
from lightning_debug.experiments.calls import Recorder
from lightning_debug.experiments.cuts import rounds
from lightning_debug.experiments.differences import Slope, directions, projected, slope
from lightning_debug.experiments.isolation import seed
from lightning_debug.experiments.replica import SEED
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.statistics import tensors_in

MOST = 32
COORDINATES = 12
REPEATED = 3
SOLVER_CALLS = 3
JITTER = 1e-3
MOSTLY = 0.75


@dataclass(eq=False)
class Application:
    """One application of a custom function.

    Attributes:
        function: The class.
        args: What it was applied to; tensors without a graph.
        trained: Which of the tensors in ``args`` ask for a gradient, in order.
        out: What it gave.
        place: The module in which it was applied; empty for the training step itself.
        line: The user's line.
        modules: Number of modules that ran inside its forward.
    """

    function: type[Function]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    trained: Sequence[bool]
    place: str
    line: str
    out: Any = None
    modules: int = 0

    def apply(self, args: Sequence[Any]) -> Any:
        """Apply it again."""
        seed(SEED)
        return self.function.apply(*args, **self.kwargs)  # type: ignore[no-untyped-call]


class Applications(list[Application]):
    """Collects the applications of custom functions; those of torch itself are trusted.

    Args:
        recorder: Knows the module that runs.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def hear(
        self,
        function: type[Function],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Callable[[], Any],
    ) -> Any:
        """Take in one; see :class:`Cuts`."""
        if function.__module__.partition(".")[0] == "torch" or len(self) >= MOST:
            return run()
        trained = [t.requires_grad for t in tensors_in(args, depth=1)]
        place, line = self._recorder.place, user_line()
        application = Application(function, duplicate(args), kwargs, trained, place, line)
        before = len(self._recorder.calls)
        out = run()
        application.modules = len(self._recorder.calls) - before
        application.out = duplicate(out)
        if any(t.requires_grad for t in tensors_in(out, depth=1)):
            self.append(application)
        return out


def slopes(application: Application) -> list[Slope]:
    """Measure the derivative of a function, along random directions, as its backward gives it.

    A little is added to its inputs first: exact zeros, which a layer of rectifiers makes, are
    where the functions that follow tend to have their kinks.
    """
    local = _Local(application)
    return [local.slope(direction) for direction in directions(local.at, REPEATED)]


def surrogate(application: Application) -> str:
    """Say why the gradient of a function is not meant to be its derivative; empty if nothing does.

    ``"identity"``: it gives what it takes, so it is there for its gradient (reversal, scaling).
    ``"flat"``: it rounds; its derivative is zero, and of no use. ``"clamped"``: it lets gradients
    pass where it cuts off on both sides. ``"solver"``: it iterates.
    """
    if application.modules >= SOLVER_CALLS:
        return "solver"
    inputs = [t for t in tensors_in(application.args, depth=1) if t.is_floating_point()]
    outputs = [t for t in tensors_in(application.out, depth=1) if t.is_floating_point()]
    for out in outputs:
        if any(_same(x, out) for x in inputs):
            return "identity"
        if any(rounds(x, out) for x in inputs):
            return "flat"
    local = _Local(application)
    points = [local.slope(direction) for direction in local.coordinates()]
    wrong = [p for p in points if p.error > JITTER]
    flat = [p for p in wrong if abs(p.numeric) <= p.floor]
    if len(flat) > MOSTLY * len(points):
        return "flat"
    if flat == wrong and wrong and any(_bounded(out) for out in outputs):
        return "clamped"
    return ""


class _Local:
    """A function of those of its inputs that ask for a gradient, made a number."""

    def __init__(self, application: Application) -> None:
        self._application = application
        tensors = list(tensors_in(application.args, depth=1))
        picked = [t for t, on in zip(tensors, application.trained, strict=True) if on]
        self._positions = {id(t): i for i, t in enumerate(picked)}
        generator = torch.Generator().manual_seed(0)
        self.at = [_jittered(t, generator) for t in picked]
        leaves = [x.clone().requires_grad_() for x in self.at]
        value = self._value([leaf * 1.0 for leaf in leaves])
        self._start = float(value.detach())
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        self.gradients = [
            torch.zeros_like(x) if g is None else g.to_dense()
            for x, g in zip(leaves, found, strict=True)
        ]

    def slope(self, direction: Sequence[Tensor]) -> Slope:
        """Measure the derivative in one direction."""
        return slope(self._evaluate, self._start, self.at, self.gradients, direction)

    def coordinates(self) -> Iterator[list[Tensor]]:
        """Yield directions along single elements of the largest input."""
        largest = max(range(len(self.at)), key=lambda i: self.at[i].numel())
        values = self.at[largest]
        size = values.square().mean().sqrt().clamp_min(1e-2)
        for index in range(0, values.numel(), max(1, values.numel() // COORDINATES)):
            direction = [x.new_zeros(x.shape) for x in self.at]  # contiguous, whatever x is
            direction[largest].view(-1)[index] = size
            yield direction

    def _evaluate(self, values: Sequence[Tensor]) -> float:
        with torch.no_grad():
            return float(self._value([v.clone() for v in values]))

    def _value(self, values: Sequence[Tensor]) -> Tensor:
        def put(value: Any) -> Any:
            if isinstance(value, Tensor) and id(value) in self._positions:
                return values[self._positions[id(value)]]
            return duplicate(value) if isinstance(value, Tensor) else value

        application = self._application
        args = [
            type(a)(put(v) for v in a) if type(a) in (tuple, list) else put(a)
            for a in application.args
        ]
        outputs = tensors_in(application.apply(args), depth=1)
        return projected([t for t in outputs if t.is_floating_point()])


def _jittered(values: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(values.shape, generator=generator, dtype=values.dtype).to(values.device)
    return values + JITTER * values.square().mean().sqrt() * noise


def _same(values: Tensor, out: Tensor) -> bool:
    return out.numel() == values.numel() and torch.equal(out.flatten(), values.flatten())


def _bounded(out: Tensor) -> bool:
    """Tell whether both the smallest and the largest value occur more than once."""
    ends = (out.min(), out.max())
    return all(int((out == end).sum()) > 1 for end in ends)
