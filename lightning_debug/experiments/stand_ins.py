"""What a copied training step meets instead of its trainer, optimizers and loggers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

PLAIN = (bool, int, float, str, type(None), Tensor, torch.device, os.PathLike)


class Mute:
    """Takes every call and every attribute, and does nothing: a logger, a lock, a file."""

    def __getattr__(self, name: str) -> Mute:
        """Return itself for any attribute that is not one of Python's own."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        """Forget it."""

    def __call__(self, *args: object, **kwargs: object) -> Mute:
        """Do nothing."""
        return self

    def __getitem__(self, key: object) -> Mute:
        """Return itself for any key."""
        return self

    def __setitem__(self, key: object, value: object) -> None:
        """Forget it."""

    def __iter__(self) -> Iterator[Any]:
        """Be empty."""
        return iter(())

    def __len__(self) -> int:
        """Be empty."""
        return 0

    def __bool__(self) -> bool:
        """Be there."""
        return True

    def __enter__(self) -> Mute:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def __deepcopy__(self, memo: object) -> Mute:
        """Be the same everywhere."""
        return self


class TrainerStandIn:
    """Tells what the trainer tells, and does nothing.

    Plain values (numbers, names, the data module) are the trainer's own; whatever else is asked
    for, such as a logger or a method, is mute.
    """

    def __init__(self, trainer: Any) -> None:
        object.__setattr__(self, "_real", trainer)

    def __getattr__(self, name: str) -> Any:
        """Return plain values as they are."""
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._real, name, None)
        if isinstance(value, PLAIN) or name in ("datamodule", "train_dataloader"):
            return value
        if isinstance(value, Mapping):
            return {k: v.clone() if isinstance(v, Tensor) else v for k, v in value.items()}
        return Mute()

    def __setattr__(self, name: str, value: object) -> None:
        """Keep what is set to ourselves."""
        object.__setattr__(self, name, value)

    def __deepcopy__(self, memo: object) -> TrainerStandIn:
        """Be the same everywhere."""
        return self


class OptimizerStandIn:
    """Holds the copied parameters in the groups of an optimizer, and changes nothing.

    Args:
        optimizer: The real one, read for its groups.
        copied: The copy of each parameter, by the identity of the real one.
    """

    def __init__(self, optimizer: Optimizer, copied: Mapping[int, Tensor]) -> None:
        self.param_groups = [
            {k: v for k, v in group.items() if k != "params"}
            | {"params": [copied.get(id(p), p.detach().clone()) for p in group["params"]]}
            for group in optimizer.param_groups
        ]
        self.defaults = dict(optimizer.defaults)
        self.state: dict[Any, Any] = {}
        self.optimizer = self

    def zero_grad(self, *args: object, **kwargs: object) -> None:
        """Clear the gradients of the copy."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: object) -> Any:
        """Evaluate the closure, if there is one."""
        return closure() if closure is not None else None

    def __getattr__(self, name: str) -> Any:
        """Be mute about everything else."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Mute()
