"""What clipping made of the gradients."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping(Observation):
    """The gradients of one optimizer between the last backward and its step, and the step.

    Of gradients that nobody clips, ``before`` and ``after`` are the same. Numbers are nan where
    they were not measured, as after the last look of a run.

    Attributes:
        optimizer: Which one.
        before, after: Norm of all its gradients when backward had written them and when the step
            used them, both without the factor of a gradient scaler.
        scale: The factor of the gradient scaler; 1 without one.
        scaled_factor: What they were multiplied by while they still had that factor.
        pinned: Share of their elements, of those that are not zero, that are as large as the
            largest of all.
        cosine: Between the gradients before and after.
        rms: Root mean square of their elements when the step used them.
        lr, memory, eps: Learning rate, momentum (or the decay of the running mean) and epsilon of
            the optimizer; nan where it has none.
        pull: How far the step went down along the gradient, over the size of the gradient: for
            plain gradient descent the learning rate.
        ratio: Size of the step over that of the weights, both rms.
        alike: Cosine between the gradients and those of the look before, both before clipping.
        line: The line of the user's code that changed the gradients: ``"model.py:41"``.
        passed: Size of a part of the gradients at each step since the last look, as
            ``(step, size)``; only where the host can read it without waiting.
    """

    optimizer: str
    before: float = 1.0
    after: float = 1.0
    scale: float = 1.0
    scaled_factor: float = 1.0
    pinned: float = 0.0
    cosine: float = 1.0
    rms: float = 1e-2
    lr: float = 1e-3
    memory: float = 0.0
    eps: float = float("nan")
    pull: float = float("nan")
    ratio: float = 1e-3
    alike: float = float("nan")
    line: str = ""
    passed: tuple[tuple[int, float], ...] = ()

    @property
    def stream(self) -> str:
        """Return the optimizer: each has its own gradients in one look."""
        return self.optimizer

    @property
    def factor(self) -> float:
        """Return what was left of the gradients; nan where there were none."""
        return self.after / self.before if self.before > 0 else float("nan")
