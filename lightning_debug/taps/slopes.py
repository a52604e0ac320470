"""How the loss answers to a step: its slope along the step, before and after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_debug.observation import Observation, StepResponse
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, dense, samples
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring


@dataclass(eq=False)
class _Step:
    """One step of an optimizer: samples of its gradients and of what it changed."""

    number: int
    gradients: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    changes: dict[str, Tensor] = field(default_factory=dict)


class SlopeTap(LookTap):
    """Multiplies each step with the gradient that made it, and with the one that came after it.

    On a strided sample of the elements of each parameter. The two gradients are those that the
    run computes anyway; the second one is known where the next update is looked at, too, as at
    the start of training.
    """

    name = "the tap on slopes"
    kinds = (StepResponse,)

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._ledger = Ledger()
        self._number = 0
        self._last: dict[str, _Step] = {}
        self._slopes: dict[str, tuple[Entry, Entry]] = {}

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start a look."""
        self._ledger, self._slopes, self._number = ledger, {}, step
        several = len(self._wiring.optimizers)
        recent = {n: s for n, s in self._last.items() if self._number - s.number <= several}
        self._last = recent

    def before_step(self, optimizer: Optimizer) -> None:
        """Hold the gradient against the step before."""
        label = self._wiring.label(optimizer)
        held = self._wiring.held_by(optimizer)
        with torch.no_grad():
            gradients = _samples({name: p.grad for name, p in held.items()})
            weights = _samples({name: held[name] for name in gradients})
            before = self._last.pop(label, None)
            if before is not None and before.changes:
                start = self._ledger.note(_dot(before.gradients, before.changes))
                self._slopes[label] = start, self._ledger.note(_dot(gradients, before.changes))
        self._last[label] = _Step(self._number, gradients, weights)

    def after_step(self, optimizer: Optimizer) -> None:
        """Keep what the step has changed."""
        step = self._last.get(self._wiring.label(optimizer))
        if step is not None and not step.changes:
            held = self._wiring.held_by(optimizer)
            with torch.no_grad():
                after = _samples({n: p for n, p in held.items() if n in step.weights})
                before = [step.weights[name] for name in after]
                apart = torch._foreach_sub(list(after.values()), before) if after else []
            step.changes = dict(zip(after, apart, strict=True))

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return the slopes that have arrived."""
        for label, (start, end) in self._slopes.items():
            yield StepResponse(
                step=step, epoch=epoch, optimizer=label, start=start.value, end=end.value
            )


def _samples(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Return a few values of each tensor that has any, as copies."""
    whole = {name: v for name, tensor in tensors.items() if (v := dense(tensor)) is not None}
    whole = {name: v for name, v in whole.items() if v.shape == getattr(tensors[name], "shape", 0)}
    few = {name: values.float() for name, values in samples(whole, PARAMETER_SAMPLE).items()}
    # A sample stands for all elements of its parameter.
    scales = [math.sqrt(whole[name].numel() / values.numel()) for name, values in few.items()]
    scaled = torch._foreach_mul(list(few.values()), scales) if few else []
    return dict(zip(few, scaled, strict=True))


def _dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    names = [name for name, values in one.items() if _alike(values, other.get(name))]
    return torch.dot(*(_flat([tensors[name] for name in names]) for tensors in (one, other)))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]) if tensors else torch.zeros(1)


def _alike(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and one.device == other.device
