"""What ran: the record in ``run.json``. Plain values, bounded, and nothing that is secret."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_debug.tracking import data, machine, model
from lightning_debug.tracking.git import Git, script_folder
from lightning_debug.tracking.secrets import command, without_secrets
from lightning_debug.tracking.values import MOST_ITEMS, fitting, safe

# What of an optimizer or a scheduler is no setting.
LIVE = ("params", "param_names", "optimizer", "verbose", "last_epoch", "best", "num_bad_epochs")


def describe(
    module: Module,
    optimizers: Sequence[Optimizer],
    settings: Mapping[str, Any],
    *,
    schedulers: Sequence[Mapping[str, Any]] = (),
    hyperparameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what is known of a run that is about to start.

    Args:
        module: What is trained.
        optimizers: Its optimizers.
        settings: Of the trainer.
        schedulers: What is known of each scheduler.
        hyperparameters: By whose they are, such as ``"model"``; None for the short record of a
            run that nobody wants to track.
    """
    parameters = [p for p in module.parameters() if not is_lazy(p)]
    head = {
        "model": type(module).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "optimizers": [_optimizer(optimizer) for optimizer in optimizers],
        "trainer": safe(settings),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": machine.packages(),
    }
    if hyperparameters is None:
        return fitting(head)
    whole = head | {
        "command": safe(command([Path(sys.executable).name, *sys.argv[:MOST_ITEMS]])),
        "folder": without_secrets(str(Path.cwd()))[:500],
        "hyperparameters": safe(hyperparameters),
        "schedulers": safe(schedulers),
        "seeds": machine.seeds(),
        "determinism": machine.determinism(),
        "machine": machine.describe(),
        "environment": machine.environment(),
    }
    return fitting(whole)


class Later:
    """What of the record is known only while the run goes on: its code, model and first batches.

    It never waits: :meth:`news` tells what has become known since it was asked last.
    """

    def __init__(self) -> None:
        self._git: Git | None = Git(script_folder())
        self._batches = data.FirstBatches()
        self._data: dict[str, Any] = {}

    @property
    def waiting(self) -> bool:
        """Tell whether anything is still to come."""
        return self._git is not None or self._batches.waiting

    def begin(self, module: Module, training: Any, validation: Any) -> dict[str, Any]:
        """Return what is known when weights and loaders are there."""
        self._data = safe(
            {"training": data.describe(training), "validation": data.describe(validation)}
        )
        return fitting({"weights": safe(model.describe(module)), "data": self._data})

    def batch(self, batch: Any) -> None:
        """See a batch pass by."""
        if self._batches.waiting:
            self._batches.take(batch)

    def news(self, *, last: bool = False) -> dict[str, Any]:
        """Return what has become known; with ``last``, all that will be."""
        found: dict[str, Any] = {}
        if self._git is not None and (last or not self._git.waiting):
            self._git.stop()
            found["git"] = self._git.answer()
            self._git = None
        if self._data and (last or not self._batches.waiting):
            found["data"] = self._data | safe(self._batches.describe())
            self._data = {}
        return found


def scheduler(value: Any) -> dict[str, Any]:
    """Return the settings of a scheduler: its plain attributes."""
    plain = {
        name: item
        for name, item in vars(value).items()
        if not name.startswith("_") and name not in LIVE and _is_setting(item)
    }
    return {"class": type(value).__name__} | plain


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    groups = []
    for group in optimizer.param_groups[:MOST_ITEMS]:
        settings = {name: _number(item) for name, item in group.items() if name not in LIVE}
        settings = {name: item for name, item in settings.items() if _is_setting(item)}
        sizes = [parameter.numel() for parameter in group["params"] if not is_lazy(parameter)]
        groups.append(settings | {"tensors": len(sizes), "parameters": sum(sizes)})
    described: dict[str, Any] = safe({"class": type(optimizer).__name__, "groups": groups})
    return described


def _number(value: Any) -> Any:
    """Return the number in a tensor that holds one, as capturable optimizers keep theirs."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _is_setting(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= MOST_ITEMS and all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))
