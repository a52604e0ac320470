"""What steps lose in numbers of 16 bits, and what a gradient scaler does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from lightning_debug.observation import NarrowParameter, Observation, Precision
from lightning_debug.taps.functions import MIXERS, Listener
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, norm, sample
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.twins import NoTwinError, stepped
from lightning_debug.taps.wiring import Wiring

NARROW = frozenset([torch.float16, torch.bfloat16])
MOST_SAMPLED = 1_000_000
# Rounding inside the step in 16 bits moves no element that is this far from half a spacing.
FAR = 0.25
TINY = 1e-30


@dataclass
class _Before:
    """A sample of a parameter before a step, and of what its optimizer keeps for it."""

    values: Tensor
    state: dict[str, Any]


@dataclass
class _Draft:
    dtype: torch.dtype
    eps: float
    lr: float
    group: int
    matrix: bool
    broken: Entry
    driven: Entry = field(default_factory=lambda: Entry(0.0))
    lost: Entry = field(default_factory=lambda: Entry(0.0))
    expected: Entry = field(default_factory=lambda: Entry(0.0))
    strayed: Entry = field(default_factory=lambda: Entry(0.0))
    kept: Entry = field(default_factory=lambda: Entry(math.inf))
    step: Entry = field(default_factory=lambda: Entry(0.0))
    spacing: Entry = field(default_factory=lambda: Entry(0.0))

    def observation(self) -> NarrowParameter:
        """Return the numbers that have arrived."""
        rounded = float(torch.tensor(self.eps).to(self.dtype)) if self.eps > 0.0 else self.eps
        return NarrowParameter(
            dtype=str(self.dtype).removeprefix("torch."),
            eps=self.eps,
            eps_lost=self.eps > 0.0 and rounded == 0.0,
            broken=round(self.broken.value),
            driven=_count(self.driven),
            lost=_count(self.lost),
            expected=self.expected.value,
            strayed=_count(self.strayed),
            kept=self.kept.value,
            step=self.step.value,
            spacing=self.spacing.value,
            lr=self.lr,
            group=self.group,
            matrix=self.matrix,
        )


class PrecisionTap(LookTap, Listener):
    """Makes the step of an optimizer again in 32 bits, on samples, where parameters have 16.

    Costs nothing where all parameters have 32 bits or more, but for reading the scale of a
    gradient scaler.

    Args:
        wiring: Knows which optimizer holds what.
        model: Searched for a gradient scaler of its own.
        scaler: The trainer's gradient scaler, if it has one.
    """

    name = "the tap on precision"
    kinds = (Precision,)
    names = MIXERS

    def __init__(self, wiring: Wiring, model: Module, scaler: object = None) -> None:
        self._wiring = wiring
        own = (value for value in vars(model).values() if isinstance(value, GradScaler))
        self._scaler = scaler if scaler is not None else next(own, None)
        self._ledger = Ledger()
        self._scale: Entry | None = None
        self._before: dict[int, dict[str, _Before]] = {}
        self._drafts: dict[str, dict[str, _Draft]] = {}
        self._half = False

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start a look."""
        self._ledger = ledger
        self._before, self._drafts = {}, {}
        scale = getattr(self._scaler, "_scale", None)  # get_scale() would wait for the device
        self._scale = ledger.note(scale.detach().clone()) if isinstance(scale, Tensor) else None

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear in which format layers compute."""
        self._half = self._half or (isinstance(out, Tensor) and out.dtype is torch.float16)

    def before_step(self, optimizer: Optimizer) -> None:
        """Sample what the step is about to change."""
        with torch.no_grad():
            self._before[id(optimizer)] = {
                name: _Before(self._sample(parameter).clone(), self._kept(optimizer, parameter))
                for name, parameter in self._wiring.held_by(optimizer).items()
                if _is_narrow(parameter)
            }

    def after_step(self, optimizer: Optimizer) -> None:
        """Make the same step in 32 bits, and compare."""
        before = self._before.pop(id(optimizer), {})
        if not before:
            return
        held = self._wiring.held_by(optimizer)
        drafts = self._drafts.setdefault(self._wiring.label(optimizer), {})
        with torch.no_grad():
            for index, group in enumerate(optimizer.param_groups):
                members = {
                    name: sampled
                    for name, sampled in before.items()
                    if name in held and self._wiring.group_of(held[name]) == index
                }
                drafts |= self._compare(optimizer, group, members, held)

    def end(self) -> None:
        """Let go of the samples."""
        self._before = {}

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return the numbers that have arrived."""
        if self._scale is not None:
            yield Precision(step=step, epoch=epoch, scale=self._scale.value)
        if self._half:
            yield Precision(step=step, epoch=epoch, half=True)
        for label, drafts in self._drafts.items():
            parameters = {name: draft.observation() for name, draft in drafts.items()}
            yield Precision(step=step, epoch=epoch, optimizer=label, parameters=parameters)

    def _compare(
        self,
        optimizer: Optimizer,
        group: Mapping[str, Any],
        members: Mapping[str, _Before],
        held: Mapping[str, Parameter],
    ) -> dict[str, _Draft]:
        settings = {k: v for k, v in group.items() if k != "params"}
        drafts = {n: self._draft(settings, held[n], b) for n, b in members.items()}
        gradients = {n: p.grad for n in members if (p := held[n]).grad is not None}
        wide = {n: self._sample(gradient).float() for n, gradient in gradients.items()}
        starts = [members[name].values.float() for name in wide]
        states = [_widened(members[name].state) for name in wide]
        try:
            ends = stepped(optimizer, settings, starts, list(wide.values()), states)
        except NoTwinError:
            return drafts
        for name, start, end in zip(wide, starts, ends, strict=True):
            self._note(drafts[name], optimizer, held[name], members[name], end - start)
        return drafts

    def _draft(self, settings: Mapping[str, Any], parameter: Parameter, before: _Before) -> _Draft:
        after = self._sample(parameter)
        broken = before.values.isfinite() & ~after.isfinite()
        return _Draft(
            parameter.dtype,
            _number(settings.get("eps"), math.nan),
            _number(settings.get("lr"), math.nan),
            self._wiring.group_of(parameter),
            parameter.ndim > 1,
            self._ledger.note(broken.sum()),
        )

    def _note(
        self,
        draft: _Draft,
        optimizer: Optimizer,
        parameter: Parameter,
        before: _Before,
        move: Tensor,
    ) -> None:
        start, after = before.values.float(), self._sample(parameter).float()
        spacing = _spacing(before.values)
        steady = move.abs() < FAR * spacing
        same = after == start
        residual = move - (after - start)
        notes = {
            "driven": (move != 0).sum(),
            "lost": ((move != 0) & same).sum(),
            "expected": (move.abs() / spacing)[steady].sum(),
            "strayed": (steady & ~same).sum(),
            "step": norm(move) / math.sqrt(move.numel()),
            "spacing": norm(spacing) / math.sqrt(spacing.numel()),
        }
        kept = list(self._remainders(optimizer, parameter))
        if kept:
            size = norm(residual).clamp_min(TINY)
            gaps = [norm(gain + sign * residual) / size for gain in kept for sign in (1, -1)]
            notes["kept"] = torch.stack(gaps).amin()
        for name, value in notes.items():
            setattr(draft, name, self._ledger.note(value))

    def _remainders(self, optimizer: Optimizer, parameter: Parameter) -> Iterator[Tensor]:
        """Yield what may hold what was lost: a compensation, or how far away a wider copy is."""
        for value in optimizer.state.get(parameter, {}).values():
            if _is_alike(value, parameter):
                held = self._sample(value).float()
                yield held
                yield held - self._sample(parameter).float()

    def _kept(self, optimizer: Optimizer, parameter: Parameter) -> dict[str, Any]:
        """Return a copy of what an optimizer keeps for a parameter, in samples."""
        state = optimizer.state.get(parameter, {})
        return {
            key: self._sample(value).clone() if _is_alike(value, parameter) else _copied(value)
            for key, value in state.items()
        }

    def _sample(self, tensor: Tensor) -> Tensor:
        most = MOST_SAMPLED // max(1, len(self._wiring.parameters))
        return sample(tensor.detach(), min(PARAMETER_SAMPLE, max(16, most)))


def _is_narrow(parameter: Parameter) -> bool:
    gradient = parameter.grad
    plain = parameter.layout is torch.strided and not hasattr(parameter, "to_local")
    return (
        plain
        and parameter.dtype in NARROW
        and parameter.numel() > 0
        and gradient is not None
        and gradient.layout is torch.strided
    )


def _is_alike(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _copied(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _widened(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a state in 32 bits, which a step may write to."""
    return {
        key: value.to(torch.float32 if value.ndim else value.dtype, copy=True)
        if isinstance(value, Tensor)
        else value
        for key, value in state.items()
    }


def _spacing(values: Tensor) -> Tensor:
    """Return the distance from each number to the next larger one of its format, in 32 bits."""
    finfo = torch.finfo(values.dtype)
    exponent = torch.frexp(values.float())[1] - 1
    size = torch.ldexp(torch.ones_like(values, dtype=torch.float32), exponent) * finfo.eps
    return size.clamp_min(finfo.smallest_normal * finfo.eps)


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _count(entry: Entry) -> int:
    return round(entry.value) if math.isfinite(entry.value) else 0
