"""What happens to the gradients between the last backward and the step that uses them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_debug.observation import Clipping
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import (
    PARAMETER_SAMPLE,
    dense,
    local,
    norm,
    norms,
    on_host,
    sample,
)
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring

UNSCALE = "_amp_foreach_non_finite_check_and_unscale_"
CLIPS = frozenset("_foreach_mul_ _foreach_clamp_max_ mul_ div_ clamp_ clamp_max_ clip_".split())
SAMPLED = 32
SENTINEL = 4096
PASSED = 1000
# Elements that were cut off at one limit are equal but for rounding.
PINNED = 0.9999


@dataclass(eq=False)
class _Use:
    """The gradients of one optimizer on their way to its step.

    Attributes:
        parameters: A few of its parameters, to take samples of.
        writes: Backward passes that reached the first of them.
        norm: Of all gradients, as backward has left them.
        values: A sample of them.
        scaled, inverse: Their norm when they were unscaled, and what they were multiplied by.
        weights: A sample of the weights before the step.
    """

    parameters: list[Parameter]
    writes: int = 0
    norm: Tensor | None = None
    values: list[Tensor] = field(default_factory=list)
    scaled: Tensor | None = None
    inverse: Tensor | None = None
    writes_before: int = 0
    weights: list[Tensor] = field(default_factory=list)
    line: str = ""


@dataclass(eq=False)
class _Draft:
    """An observation whose numbers are on their way to the host."""

    known: Clipping
    numbers: dict[str, Entry]
    passed: list[tuple[int, Entry]]

    def observation(self, step: int, epoch: int) -> Clipping:
        """Return the numbers that have arrived."""
        n = {name: entry.value for name, entry in self.numbers.items()}
        inverse = n["inverse"]
        written = n["written"]
        return replace(
            self.known,
            step=step,
            epoch=epoch,
            before=written * inverse,
            after=n["used"],
            scale=1.0 / inverse if inverse > 0 else math.nan,
            scaled_factor=n["scaled"] / written if written > 0 else math.nan,
            pinned=n["pinned"],
            cosine=n["cosine"],
            rms=n["rms"],
            pull=n["pull"],
            ratio=n["ratio"],
            alike=n["alike"],
            passed=tuple((at, entry.value) for at, entry in self.passed),
        )


class ClippingTap(LookTap, Listener):
    """Compares the gradients that backward wrote with those that the step used.

    Whoever clips them, and wherever: Lightning after our hooks, a training step of the user's
    own before them, while a gradient scaler's factor is still on them or afterwards.
    """

    name = "the tap on clipping"
    kinds = (Clipping,)
    names = frozenset({"backward", UNSCALE}) | CLIPS

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._ledger = Ledger()
        self._uses: dict[int, _Use] = {}
        self._grads: dict[int, _Use] = {}
        self._handles: list[RemovableHandle] = []
        self._drafts: list[_Draft] = []
        self._earlier: dict[int, Tensor] = {}
        self._sentinels: dict[int, Parameter | None] = {}
        self._passed: dict[int, deque[tuple[int, float | Tensor]]] = {}
        self._step = 0

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start a look."""
        self._ledger, self._drafts, self._step = ledger, [], step
        for optimizer in self._wiring.optimizers:
            self._use(optimizer)

    def _use(self, optimizer: Optimizer) -> _Use:
        if id(optimizer) not in self._uses:
            held = list(self._wiring.held_by(optimizer).values())
            use = _Use([p for p in held if p.requires_grad][:: -(-len(held) // SAMPLED) or 1])
            if use.parameters:

                def wrote(_: Tensor) -> None:
                    use.writes += 1

                first = use.parameters[0]
                hook = first.register_post_accumulate_grad_hook(wrote)  # type: ignore[no-untyped-call]
                self._handles.append(hook)
            self._uses[id(optimizer)] = use
        return self._uses[id(optimizer)]

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of the end of a backward pass that Lightning is not told of."""
        if getattr(func, "__name__", "") == "backward":
            self.after_backward()

    def after_backward(self) -> None:
        """Measure what backward has written."""
        self._grads = {}
        with torch.no_grad():
            for optimizer in self._wiring.optimizers:
                use = self._use(optimizer)
                gradients = self._gradients(optimizer)
                use.norm = _norm(list(gradients.values()))
                use.values = [v.clone() for v in _samples(p.grad for p in use.parameters)]
                use.scaled = use.inverse = None
                use.line = ""
                self._grads |= dict.fromkeys((g.data_ptr() for g in gradients.values()), use)

    def before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Hear of functions that change gradients in place."""
        if name == "backward" or not args:
            return
        changed = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
        strided = [t for t in changed if isinstance(t, Tensor) and t.layout is torch.strided]
        use = next((u for t in strided if (u := self._grads.get(t.data_ptr()))), None)
        if use is None:
            return
        if name != UNSCALE:
            use.line = use.line or user_line()
        elif use.inverse is None:
            with torch.no_grad():
                use.scaled, use.inverse = _norm(strided), args[2].detach().clone()

    def before_step(self, optimizer: Optimizer) -> None:
        """Sample the weights, and the gradients where no backward was heard of."""
        use = self._use(optimizer)
        self._notice(optimizer)
        with torch.no_grad():
            if use.norm is None:
                use.norm = _norm(list(self._gradients(optimizer).values()))
                use.values = [v.clone() for v in _samples(p.grad for p in use.parameters)]
            use.weights = [v.clone() for v in _samples(use.parameters)]
            use.writes_before = use.writes

    def after_step(self, optimizer: Optimizer) -> None:
        """Measure what the step has used, and what it has done."""
        use = self._use(optimizer)
        # A closure that ran the model again has left gradients of another point.
        if use.norm is None or not use.weights or use.writes != use.writes_before:
            return
        with torch.no_grad():
            used = _norm(list(self._gradients(optimizer).values()))
            if used is not None:
                self._drafts.append(self._drafted(optimizer, use, use.norm, used))
        use.norm, use.weights = None, []

    def _drafted(self, optimizer: Optimizer, use: _Use, written: Tensor, used: Tensor) -> _Draft:
        settings = optimizer.param_groups[0] if optimizer.param_groups else {}
        betas = settings.get("betas")
        first = betas[0] if isinstance(betas, (tuple, list)) and betas else math.nan
        known = Clipping(
            optimizer=self._wiring.label(optimizer),
            lr=_number(settings.get("lr")),
            memory=_number(settings.get("momentum", first)),
            eps=_number(settings.get("eps")),
            line=use.line,
        )
        note = self._ledger.note
        missing = Entry(math.nan)
        numbers = dict.fromkeys(("pinned", "cosine", "rms", "pull", "ratio"), missing)
        numbers["written"], numbers["used"] = note(written), note(used)
        numbers["scaled"] = note(written if use.scaled is None else use.scaled)
        numbers["inverse"] = Entry(1.0) if use.inverse is None else note(use.inverse)
        numbers["alike"] = self._alike(optimizer, use)
        after = _samples(p.grad for p in use.parameters)
        if after and _alike(after, use.values):
            now, then = _joined(after), _joined(use.values)
            largest = now.abs().amax()
            nonzero = (now != 0).sum().clamp_min(1)
            numbers["pinned"] = note((now.abs() >= PINNED * largest).sum() / nonzero)
            numbers["cosine"] = note(_cosine(now, then))
            numbers["rms"] = note(now.norm() / nonzero.sqrt())
            weights = _samples(use.parameters)
            if _alike(weights, use.weights):
                start = _joined(use.weights)
                moved = _joined(weights) - start
                numbers["ratio"] = note(moved.norm() / start.norm().clamp_min(1e-30))
                if _alike(weights, after):
                    numbers["pull"] = note(-_dot(moved, now) / _dot(now, now).clamp_min(1e-37))
        return _Draft(known, numbers, self._noted(optimizer, self._ledger))

    def _alike(self, optimizer: Optimizer, use: _Use) -> Entry:
        """Note how much the gradients are like those of the last look."""
        earlier = self._earlier.pop(id(optimizer), None)
        if not use.values:
            return Entry(math.nan)
        self._earlier[id(optimizer)] = now = _joined(use.values)
        if earlier is None or earlier.shape != now.shape or earlier.device != now.device:
            return Entry(math.nan)
        return self._ledger.note(_cosine(now, earlier))

    def unseen_step(self, optimizer: Optimizer, step: int) -> None:
        """Notice the size of the gradients at a step between two looks."""
        self._step = step
        self._notice(optimizer)

    def _notice(self, optimizer: Optimizer) -> None:
        """Keep the size of one gradient, where it lies: nobody waits for a device."""
        if id(optimizer) not in self._sentinels and _normalizes(optimizer):
            self._sentinels[id(optimizer)] = None
        elif id(optimizer) not in self._sentinels:
            held = self._wiring.held_by(optimizer).values()
            few = [p for p in held if p.requires_grad and p.numel() <= SENTINEL]
            largest = max(few, key=lambda p: p.numel(), default=None)
            self._sentinels[id(optimizer)] = largest
        sentinel = self._sentinels[id(optimizer)]
        gradient = None if sentinel is None else sentinel.grad
        if gradient is None or gradient.layout is not torch.strided:
            return
        values = on_host(gradient)
        if values is not None:
            with np.errstate(all="ignore"):
                size: float | Tensor = math.sqrt(float(np.dot(values, values)))
        else:
            with torch.no_grad():
                size = norm(local(gradient))
        self._passed.setdefault(id(optimizer), deque(maxlen=PASSED)).append((self._step, size))

    def _noted(self, optimizer: Optimizer, ledger: Ledger) -> list[tuple[int, Entry]]:
        return [
            (step, ledger.note(size) if isinstance(size, Tensor) else Entry(size))
            for step, size in self._passed.pop(id(optimizer), ())
        ]

    def end(self) -> None:
        """Let go of the gradients, and of the hooks that counted backward passes."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._uses, self._grads = [], {}, {}

    def observations(self, step: int, epoch: int) -> Iterable[Clipping]:
        """Return the numbers that have arrived."""
        drafts, self._drafts = self._drafts, []
        return [draft.observation(step, epoch) for draft in drafts]

    def rest(self, step: int, epoch: int) -> Iterable[Clipping]:
        """Return what has passed since the last look."""
        for optimizer in self._wiring.optimizers:
            on_device = any(isinstance(v, Tensor) for _, v in self._passed.get(id(optimizer), ()))
            ledger = Ledger()
            noted = self._noted(optimizer, ledger)
            if on_device:
                ledger.send()
                ledger.settle()
            passed = tuple((at, entry.value) for at, entry in noted)
            if passed:
                yield Clipping(
                    step=step,
                    epoch=epoch,
                    optimizer=self._wiring.label(optimizer),
                    before=math.nan,
                    after=math.nan,
                    passed=passed,
                )

    def _gradients(self, optimizer: Optimizer) -> dict[str, Tensor]:
        held = self._wiring.held_by(optimizer)
        return {n: v for n, p in held.items() if (v := dense(p.grad)) is not None}


def _norm(gradients: Sequence[Tensor]) -> Tensor | None:
    """Return the norm of all gradients together; None for none."""
    rows = [row for _, row in norms(gradients)]
    return norm(torch.cat([row.to(rows[0].device) for row in rows])) if rows else None


def _samples(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    # A gradient of another layout than its weight is of another sample.
    strided = [t for t in tensors if t is not None and t.layout is torch.strided]
    values = [v for t in strided if (v := dense(t)) is not None]
    return [sample(v, PARAMETER_SAMPLE) for v in values]


def _joined(samples: Sequence[Tensor]) -> Tensor:
    device = samples[0].device
    return torch.cat([s.to(device, torch.float32) for s in samples])


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return [v.shape for v in one] == [v.shape for v in other]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return _dot(one, other) / (norm(one) * norm(other)).clamp_min(1e-37)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product; not as a matrix product, which autocast would round."""
    product: Tensor = (one * other).sum()
    return product


def _normalizes(optimizer: Optimizer) -> bool:
    """Tell whether steps are divided by the size of gradients, so that a spike does nothing."""
    return any(group.keys() & {"eps", "betas"} for group in optimizer.param_groups)


def _number(value: object) -> float:
    """Return a setting of an optimizer; not if it is a tensor, which lives on a device."""
    return float(value) if isinstance(value, (int, float)) else math.nan
