"""How the loss changes when batch norms use their running statistics, as evaluation does."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lightning_debug.experiments.replica import NotApplicableError, Replica, single, working_copy
from lightning_debug.observation import ModeGap, Observation
from lightning_debug.taps.batch_norms import apart, given
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.transfer import Entry, Ledger

log = logging.getLogger("lightning_debug")
BURN_IN = 50
LATE = 0.8
SLOW = 0.005
YOUNG = 0.1


@dataclass(frozen=True, slots=True)
class _Trial:
    """The losses and the distances of one trial, on their way to the host."""

    batch: Entry
    running: Entry
    distances: Mapping[str, Mapping[str, Entry]]

    def observation(self, step: int, epoch: int) -> ModeGap:
        far = {
            place: (numbers["gap"].value, numbers["scale"].value)
            for place, numbers in self.distances.items()
        }
        place = max(far, key=lambda name: far[name][0] + math.log(max(1.0, far[name][1])))
        return ModeGap(
            step=step,
            epoch=epoch,
            batch=self.batch.value,
            running=self.running.value,
            place=place,
            gap=far[place][0],
            scale=far[place][1],
        )


class ModeGapTap(LookTap):
    """Runs the training step of a look on a copy, by one kind of statistics and by the other.

    Late enough for the running statistics to have forgotten what they started with, and once more
    towards the end: in between they may lag behind weights that move fast. The numbers travel
    with those of the look.

    Args:
        model: The module that is trained, never changed.
        optimizers: Its optimizers.
        updates: Updates that the run will make; 0 where nobody can tell.
    """

    name = "the experiment ModeGap"
    kinds = (ModeGap,)

    def __init__(self, model: Module, optimizers: Sequence[Optimizer], updates: int) -> None:
        self._model = model
        self._optimizers = optimizers
        total = updates or 4 * BURN_IN
        self._waits = [min(BURN_IN, total // 2), int(LATE * total)]
        self._start = self._step = 0
        self._trial: _Trial | None = None

    def start(self, step: int, epoch: int) -> Iterable[Observation]:
        """Note where the run begins."""
        self._start = step
        return ()

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Make the experiment, if it is time."""
        self._trial, self._step = None, step - self._start
        if not self._waits or self._step < self._waits[0]:
            return
        while self._waits and self._step >= self._waits[0]:
            self._waits.pop(0)
        norms = [module for module in self._model.modules() if _counts(module)]
        if not norms or any(_young(norm, self._step) for norm in norms):
            return
        try:
            with working_copy(self._model, self._optimizers) as replica:
                self._trial = _tried(replica, batch, ledger)
        except NotApplicableError as reason:
            log.info("lightning_debug: no ModeGap at step %d: %s", self._step, reason)

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return what was seen at this look, if anything."""
        trial, self._trial = self._trial, None
        if trial is not None:
            yield trial.observation(step, epoch)


def _tried(replica: Replica, batch: Any, ledger: Ledger) -> _Trial | None:
    """Compare the losses of a training step without dropout; None where no batch norm runs."""
    norms = {id(m.running_mean): (p, m) for p, m in replica.module.named_modules() if _counts(m)}
    replica.evaluating = True
    running = _loss(replica, batch)
    with _ByBatch(norms, ledger) as swapped:
        by_batch = _loss(replica, batch)
    if not swapped.distances:
        return None
    return _Trial(ledger.note(by_batch), ledger.note(running), swapped.distances)


class _ByBatch(TorchFunctionMode):
    """Gives batch norms the statistics of the batch, and compares them with the running ones."""

    def __init__(self, norms: Mapping[int, tuple[str, Module]], ledger: Ledger) -> None:
        super().__init__()
        self._norms = norms
        self._ledger = ledger
        self.distances: dict[str, dict[str, Entry]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, or a batch norm in its place."""
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") == "batch_norm" and func is not torch.batch_norm:
            source, mean, variance, training, _ = given(func, args, kwargs)
            known = self._norms.get(id(mean))
            if known is not None and not training:
                self.distances[known[0]] = apart(source, mean, variance, self._ledger)
                module: Any = known[1]
                return torch.nn.functional.batch_norm(
                    source, None, None, module.weight, module.bias, True, 0.0, module.eps
                )
        return func(*args, **kwargs)


def _loss(replica: Replica, batch: Any) -> Tensor:
    return replica.forward(lambda: single(replica.losses(batch)).detach())


def _counts(module: Module) -> bool:
    """Tell whether a module is a batch norm in train mode that has running statistics."""
    return (
        module.training
        and isinstance(getattr(module, "running_mean", None), Tensor)
        and isinstance(getattr(module, "num_batches_tracked", None), Tensor)
        and hasattr(module, "momentum")
    )


def _young(module: Any, steps: int) -> bool:
    """Tell whether running statistics cannot but hold much of what they started with."""
    momentum = module.momentum
    if momentum is None or momentum <= SLOW:
        return False
    return bool((1.0 - momentum) ** steps > YOUNG)
