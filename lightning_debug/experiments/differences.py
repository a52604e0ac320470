"""Directional finite differences of a function of tensors, against its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

# Relative to the size of what is moved. In float64 both sides agree to 1e-6 where all is smooth.
STEP = 1e-6
SETTLED = 1e-3
FLOOR = 1e-7

Evaluate = Callable[[Sequence[Tensor]], float]


@dataclass(frozen=True, slots=True)
class Slope:
    """The derivative in one direction.

    Attributes:
        numeric: By central differences; nan where the two sides disagree (a kink, noise).
        analytic: By autograd.
        floor: Size below which a difference is rounding.
    """

    numeric: float
    analytic: float
    floor: float

    @property
    def error(self) -> float:
        """Return the relative error; nan where the finite difference did not settle."""
        return relative(self.numeric, self.analytic, self.floor)


def slope(
    evaluate: Evaluate,
    value: float,
    at: Sequence[Tensor],
    gradients: Sequence[Tensor],
    direction: Sequence[Tensor],
) -> Slope:
    """Measure the derivative of a function in one direction.

    Args:
        evaluate: The function, of tensors of the shapes of ``at``.
        value: What it gives at ``at``.
        at: Where to measure it.
        gradients: Its gradient there.
        direction: The direction, of the size of what may be moved.
    """
    pairs = zip(gradients, direction, strict=True)
    analytic = sum(float((g * d).sum()) for g, d in pairs)
    up = (evaluate(_Moved(at, STEP, direction)) - value) / STEP
    down = (value - evaluate(_Moved(at, -STEP, direction))) / STEP
    floor = FLOOR * abs(value) + 1e-30
    # On both sides the same; else there is a kink, a jump, or noise.
    settled = relative(up, down, floor) < SETTLED
    return Slope((up + down) / 2 if settled else math.nan, analytic, floor)


class _Moved(Sequence[Tensor]):
    """Tensors, each moved in a direction when it is asked for: large ones are never all there."""

    def __init__(self, at: Sequence[Tensor], step: float, direction: Sequence[Tensor]) -> None:
        self._at, self._step, self._direction = at, step, direction

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._at[index] + self._step * self._direction[index]


def projected(outputs: Sequence[Tensor]) -> Tensor:
    """Return one number of several tensors: their sum with weights that are always the same."""
    weights = torch.Generator().manual_seed(1)
    parts = [
        (o * torch.randn(o.shape, generator=weights, dtype=o.dtype).to(o.device)).sum()
        for o in outputs
    ]
    return torch.stack(parts).sum()


def directions(
    at: Sequence[Tensor], count: int, dtype: torch.dtype | None = None
) -> Iterator[list[Tensor]]:
    """Yield random directions, each tensor's of the size of its values.

    Drawn from a generator of their own.

    Args:
        at: The values.
        count: How many directions.
        dtype: Of the directions; None for that of the values.
    """
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        yield [
            torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device).mul_(_size(x))
            for x in (x.to(dtype or x.dtype) for x in at)
        ]


def relative(one: float, other: float, floor: float) -> float:
    """Return the difference of two numbers relative to the larger one; 0 below the floor."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.nan
    larger = max(abs(one), abs(other))
    return 0.0 if larger <= floor else abs(one - other) / larger


def _size(values: Tensor) -> Tensor:
    rms = values.square().mean().sqrt()
    return torch.where(rms > 0, rms, torch.full_like(rms, 1e-2))
