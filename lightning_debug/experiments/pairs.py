"""Predictions, and the data that they are compared with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_debug.taps.loss_calls import LOSSES

BY_CLASS = frozenset(["cross_entropy", "nll_loss"])
BINARY = frozenset(["binary_cross_entropy_with_logits", "binary_cross_entropy"])
REAL = frozenset(["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
# How a target picks its class out of a prediction, where that is written by hand.
PICKS = frozenset(["gather", "__getitem__"])
DIFFERENCES = frozenset(["sub", "__sub__", "__rsub__", "rsub", "subtract"])


@dataclass(eq=False, slots=True)
class Pair:
    """A prediction and the data that it is compared with.

    Attributes:
        function: What compared them: ``"cross_entropy"``, ``"sub"``.
        place: The module path in which it ran; ``"training_step"`` for the step itself.
        prediction: Laid out like the target, with the classes, if there are any, on a last axis.
        target: Made without parameters.
        counted: Where the target is not left out by ``ignore_index``.
        value: What a loss function made of them; None for other functions.
    """

    function: str
    place: str
    prediction: Tensor
    target: Tensor
    counted: Tensor
    value: Tensor | None = None


def paired(
    func: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    place: str,
    out: Any = None,
) -> Pair | None:
    """Return what a function compares, if it compares a prediction with data.

    Args:
        func: The function of torch.
        name: Its name.
        args: What it took.
        kwargs: What it took by name.
        place: Where it ran.
        out: What it gave.
    """
    ignored: Any = None
    if name in LOSSES:
        try:
            options = inspect.signature(func).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):
            return None
        first, second, *_ = [*options.values(), None]
        if name in BY_CLASS:
            ignored = options.get("ignore_index", -100)
    elif name in DIFFERENCES and len(args) == 2:
        first, second = args
    elif name == "gather" and len(args) + len(kwargs) >= 3:
        first, second = args[0], _picked(args, kwargs)
    elif name == "__getitem__" and isinstance(args[1], tuple) and len(args[1]) == 2:
        rows, first = args[1][0], args[0]
        second = args[1][1]
        if not (isinstance(first, Tensor) and first.ndim == 2 and isinstance(rows, Tensor)):
            return None
        if len(rows) != len(first):
            return None
    else:
        return None
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return None
    if second.requires_grad and not first.requires_grad and name not in BY_CLASS:
        first, second = second, first
    if not first.requires_grad or second.requires_grad or not second.ndim:
        return None
    prediction, target = first.detach(), second.detach()
    classes = name in BY_CLASS and not target.is_floating_point()
    if classes and prediction.ndim == target.ndim + 1:
        prediction = prediction.movedim(1, -1)
    if prediction.shape[: target.ndim] != target.shape:
        return None
    counted = torch.ones_like(target, dtype=torch.bool)
    if classes and ignored is not None:
        counted = target != ignored
    value = out.detach() if name in LOSSES and isinstance(out, Tensor) else None
    return Pair(name, place, prediction.clone(), target.clone(), counted, value)


def _picked(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the index of a ``gather`` that picks one class of each row."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    index = kwargs.get("index", args[2] if len(args) > 2 else None)
    if not isinstance(index, Tensor) or dim not in (-1, index.ndim - 1) or index.shape[-1] != 1:
        return None
    return index.squeeze(-1)
