"""The base of taps that measure at a look, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from lightning_debug.observation import Observation
from lightning_debug.picture import Picture
from lightning_debug.taps.trace import Frame
from lightning_debug.taps.transfer import Ledger


class LookTap:
    """A tap that the observer opens at each look, and contains by its name.

    Class attributes:
        name: What it is called where it fails: ``"the tap on clipping"``.
        kinds: The observations it makes; it is opened where somebody asks for one of them.
        draws: Whether it makes pictures; it is opened where those are wanted.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[type[Observation], ...]] = ()
    draws: ClassVar[bool] = False

    def start(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return what is known before the first step."""
        return ()

    def passes(self, step: int, epoch: int) -> None:
        """A batch starts, with a look or without; may read plain numbers and no tensor."""

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start a look at this batch, after so many updates."""

    def left(self, frame: Frame, args: Any, out: Any) -> None:
        """A module has run, in the forward pass of a look."""

    def before_backward(self, loss: Tensor) -> None:
        """A backward pass starts from this tensor."""

    def after_backward(self) -> None:
        """A backward pass is over."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer of the model is about to step; its gradients are unscaled, not clipped."""

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer of the model has made a step; the gradients that it used are still there."""

    def end(self) -> None:
        """Let go of the tensors of the step."""

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return the numbers that have arrived."""
        return ()

    def pictures(self, step: int) -> Iterable[Picture]:
        """Return the pictures that have arrived, after so many updates; each of them once.

        Asked for after a look and after :meth:`rest`.
        """
        return ()

    def rest(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return what no look has shown yet, at the end of the run."""
        return ()
