"""Dropout that feeds a batch norm, and the variance that it adds there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from lightning_debug.observation import DroppedNorm
from lightning_debug.taps.functions import MIXERS, Listener
from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Entry, Ledger

DROPOUTS = frozenset(
    """dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout alpha_dropout_
    feature_dropout feature_dropout_ feature_alpha_dropout""".split()
)
# Where a dropout's noise is mixed, averaged or normalised away, its path ends.
ENDS = MIXERS | frozenset(
    """batch_norm layer_norm group_norm instance_norm rms_norm normalize softmax log_softmax
    mean sum var std cross_entropy nll_loss mse_loss""".split()
)
LONGEST = 12


@dataclass(frozen=True)
class _Step:
    func: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Tensor


@dataclass(frozen=True)
class _Path:
    """How a tensor came from a dropout; keeps the tensors on the way alive for the look."""

    place: str
    p: float
    source: Tensor
    dropped: Tensor
    end: Tensor
    steps: tuple[_Step, ...] = ()


@dataclass(frozen=True)
class _Found:
    path: _Path
    norm: str
    shift: Entry


class DroppedNormTap(Listener):
    """Follows what comes out of a dropout until a weight layer, a norm or a reduction takes it.

    Where it arrives at a batch norm, the functions on the way run again from the dropout's input:
    that is what the batch norm will see in evaluation. Until then they are kept, so nothing is
    followed in a model that keeps no running statistics and has called no batch norm.
    """

    everything = True

    def __init__(self, trace: Trace, model: Module) -> None:
        self._trace = trace
        self._norms = any(hasattr(module, "running_mean") for module in model.modules())
        self._ledger = Ledger()
        self._on = False
        self._original: Tensor | None = None
        self._paths: dict[int, _Path] = {}
        self._found: list[_Found] = []

    def begin(self, ledger: Ledger, *, wanted: bool) -> None:
        """Start a look."""
        self._ledger = ledger
        self._on = wanted and self._norms
        self._paths, self._found = {}, []

    def end(self) -> None:
        """Let go of the tensors."""
        self._paths = {}
        self._original = None

    def before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Keep the input of an in-place dropout."""
        if self._on and name in DROPOUTS and _in_place(name, args, kwargs):
            self._original = args[0].detach().clone()

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a call."""
        name = getattr(func, "__name__", "")
        self._norms = self._norms or name == "batch_norm"
        if not self._on:
            return
        if name in DROPOUTS and isinstance(out, Tensor):
            self._start(func, name, args, kwargs, out)
        elif name == "batch_norm":
            path = self._path(args[0])
            training = args[5] if len(args) > 5 else kwargs.get("training", False)
            if path is not None and training:
                shift = self._ledger.note(_shift(args[0].detach(), _replay(path)))
                self._found.append(_Found(path, self._trace.place, shift))
        elif name not in ENDS and isinstance(out, Tensor) and self._paths:
            path = next((p for t in tensors_in(args) if (p := self._path(t))), None)
            if path is not None and len(path.steps) < LONGEST:
                self._extend(path, _Step(func, args, kwargs, out))

    def observations(self) -> tuple[DroppedNorm, ...]:
        """Return the batch norms that a dropout feeds."""
        return tuple(
            DroppedNorm(
                dropout=found.path.place,
                norm=found.norm,
                p=found.path.p,
                shift=found.shift.value,
                through=tuple(getattr(s.func, "__name__", "") for s in found.path.steps),
            )
            for found in self._found
        )

    def _path(self, tensor: Tensor) -> _Path | None:
        return self._paths.get(id(tensor))  # the path keeps its tensor alive

    def _start(
        self,
        func: Callable[..., Any],
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Tensor,
    ) -> None:
        p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        flag = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
        source = self._original if _in_place(name, args, kwargs) else args[0].detach()
        self._original = None
        if not flag or p == 0.0 or source is None:
            return
        earlier = self._path(args[0])
        if earlier is not None and earlier.end is not out:
            self._extend(earlier, _Step(func, args, kwargs, out))
        else:
            origin = self._trace.origin(args[0])
            frame = self._trace.frames[-1] if self._trace.frames else None
            place = frame.path if frame and frame.path and frame.leaf else ""
            if not place or any(True for _ in frame.module.parameters()):  # type: ignore[union-attr]
                place = f"{origin.place if origin else self._trace.place or 'model'} > {name}"
            self._paths[id(out)] = _Path(place, p, source, out, out)

    def _extend(self, path: _Path, step: _Step) -> None:
        self._paths[id(step.out)] = _Path(
            path.place, path.p, path.source, path.dropped, step.out, (*path.steps, step)
        )


def _in_place(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    flag = kwargs.get("inplace", args[3] if len(args) > 3 else False)
    return name.endswith("_") or bool(flag)


def _replay(path: _Path) -> Tensor:
    """Run the functions of a path from the input of its dropout; further dropouts do nothing."""
    values: dict[int, Tensor] = {id(path.dropped): path.source}

    def swap(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(swap(item) for item in value)
        return values.get(id(value), value)

    with torch.no_grad():
        for step in path.steps:
            name = getattr(step.func, "__name__", "")
            args = swap(tuple(step.args))
            if name in DROPOUTS:
                values[id(step.out)] = args[0]
                continue
            in_place = step.out is step.args[0]
            if in_place and args[0] is step.args[0]:
                # x += dropout(y) has overwritten x: take the difference of y out instead.
                pairs = zip(step.args[1:], args[1:], strict=True)
                values[id(step.out)] = step.out - sum(old - new for old, new in pairs)
                continue
            if in_place:
                args = (args[0].clone(), *args[1:])
            values[id(step.out)] = step.func(*args, **step.kwargs)
    return values[id(path.end)].detach()


def _shift(train: Tensor, evaluation: Tensor) -> Tensor:
    """Return the variance of ``train`` over that of ``evaluation``, both of shape (N, C, ...)."""
    axes = [dim for dim in range(train.ndim) if dim != 1]
    noisy = train.to(torch.float32).var(dim=axes, correction=0)
    plain = evaluation.to(torch.float32).var(dim=axes, correction=0)
    nothing = torch.full_like(plain, float("nan"))
    return torch.where(plain > 1e-12, noisy / plain, nothing).nanmedian()
