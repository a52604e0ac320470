"""What the number formats of the run cannot hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrowParameter:
    """What one step did to a parameter of 16 bits, held against the same step in 32 bits.

    Attributes:
        dtype: Its format: ``"bfloat16"`` or ``"float16"``.
        eps: The optimizer's ``eps``; nan without one.
        eps_lost: Whether that is 0 in this format.
        broken: Sampled elements that were finite before the step and are not since.
        driven: Sampled elements that the step would have moved in 32 bits.
        lost: Those of them that are what they were.
        expected: How many of those that the format has no room for would have moved all the same,
            if what is too small to be seen were not lost on average (stochastic rounding).
        strayed: How many of them did.
        kept: How far what was lost is from what the optimizer holds besides, relative to it: near
            0 where something keeps it (a compensation, the rest of a copy in 32 bits).
        step: Root mean square of the step in 32 bits.
        spacing: Root mean square of the distance to the next number in this format.
        lr: Learning rate of its group.
        group: Index of its group in the optimizer.
        matrix: Whether it has more than one axis.
    """

    dtype: str = "bfloat16"
    eps: float = 1e-8
    eps_lost: bool = False
    broken: int = 0
    driven: int = 512
    lost: int = 0
    expected: float = 0.0
    strayed: int = 0
    kept: float = float("inf")
    step: float = 1e-3
    spacing: float = 1e-4
    lr: float = 1e-3
    group: int = 0
    matrix: bool = True

    @property
    def rounded(self) -> bool:
        """Tell whether the step was too small for the format, in every sampled element."""
        return self.lost == self.driven > 0 and self.step < self.spacing


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushedGradient:
    """A gradient as the run computes it, held against one of a loss multiplied by a large number.

    Attributes:
        error: Distance between the two, relative to the second.
        zeros: Share of the elements that are 0 in the first and not in the second.
        norm: Norm of the second, divided by that number again.
        numel: Elements of the parameter.
    """

    error: float = 0.0
    zeros: float = 0.0
    norm: float = 1.0
    numel: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision(Observation):
    """What got lost in the number format of one optimizer's parameters and gradients.

    Attributes:
        optimizer: Which one; empty of what holds for the whole step.
        scale: The factor of the gradient scaler; nan without one.
        half: Whether functions of the forward pass gave numbers of type float16.
        parameters: Its parameters of 16 bits, by name.
        flushed: Gradients that were computed again on a copy, by name of the parameter.
        factor: The number that the loss was multiplied by there.
        skipped: Why the gradients of the copy tell nothing; empty if they do, or there are none.
    """

    optimizer: str = ""
    scale: float = float("nan")
    half: bool = False
    parameters: Mapping[str, NarrowParameter] = field(default_factory=dict)
    flushed: Mapping[str, FlushedGradient] = field(default_factory=dict)
    factor: float = 1.0
    skipped: str = ""

    @property
    def stream(self) -> str:
        """Return the optimizer, or what else it is about: each is measured by itself."""
        if self.half:
            return "forward"
        return self.optimizer or ("copy" if math.isnan(self.scale) else "scaler")
