"""What an optimizer step did to the weights: their true change, not lr times gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_debug.observation import ParameterUpdate, Updates
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, dense, norms, samples
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring

MOST_SAMPLED = 1_000_000


@dataclass
class _Numbers:
    update: Entry
    weight: Entry
    size: int
    changed: Entry
    driven: Entry | None
    moved: Entry | None
    lr: float
    base_lr: float
    weight_decay: float
    decay: str
    normalizes: bool
    group: int
    fan_in: int
    trainable: bool
    stateful: bool


@dataclass
class UpdateDraft:
    """The updates of one optimizer at one look, on their way to the host."""

    optimizer: str
    scheduled: bool
    numbers: dict[str, _Numbers]

    def shares(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """Yield what adds up over processes that each have a part of a parameter.

        Squares of the norms of the change and of the weight, and the counts of all sampled
        elements, of those that changed and of those that have a gradient.
        """
        for name, n in self.numbers.items():
            driven = n.driven.value if n.driven else 0.0
            norms = (n.update.value**2, n.weight.value**2)
            yield name, (*norms, n.size, n.changed.value, driven)

    def settle(self, name: str, numbers: Sequence[float]) -> None:
        """Take what :meth:`shares` of all processes add up to."""
        n = self.numbers.get(name)
        if n is None:
            return
        update, weight, size, changed, driven = numbers
        n.update.settle(math.sqrt(update))
        n.weight.settle(math.sqrt(weight))
        n.size = max(1, round(size))
        n.changed.settle(changed)
        if n.driven is not None:
            n.driven.settle(driven)

    def observation(self, step: int, epoch: int) -> Updates:
        """Return the numbers that have arrived."""

        def one(n: _Numbers) -> ParameterUpdate:
            return ParameterUpdate(
                # A step touches few rows of a lookup table; the others do not make it smaller.
                update_rms=n.update.value / math.sqrt(max(1.0, n.changed.value)),
                weight_rms=n.weight.value / math.sqrt(n.size),
                changed=round(n.changed.value),
                driven=round(n.driven.value) if n.driven else 0,
                moved=None if n.moved is None else n.moved.value != 0.0,
                lr=n.lr,
                base_lr=n.base_lr,
                weight_decay=n.weight_decay,
                decay=n.decay,
                normalizes=n.normalizes,
                scheduled=self.scheduled,
                group=n.group,
                fan_in=n.fan_in,
                trainable=n.trainable,
                stateful=n.stateful,
            )

        return Updates(
            step=step,
            epoch=epoch,
            optimizer=self.optimizer,
            parameters={name: one(n) for name, n in self.numbers.items()},
        )


class UpdateTap:
    """Compares strided samples of the weights before and after an optimizer step.

    Keeps one sample of each parameter from look to look, at most a million elements in all.
    """

    def __init__(self, wiring: Wiring, trace: Trace) -> None:
        self._wiring = wiring
        self._trace = trace
        self._now: dict[str, Tensor] = {}
        self._orphans: dict[str, Tensor] = {}
        self._stepped: dict[str, Tensor] = {}

    def before(self, optimizer: Optimizer) -> None:
        """Sample the weights that an optimizer is about to change."""
        self._now.update(self._samples(self._wiring.held_by(optimizer)))

    def still(self, ledger: Ledger) -> dict[str, Entry]:
        """Note by how much parameters that no optimizer holds differ from the last look."""
        now = self._samples(self._wiring.orphans())
        moved = _distances(now, self._orphans, ledger)
        self._orphans = now
        return moved

    def measure(self, optimizer: Optimizer, ledger: Ledger) -> UpdateDraft:
        """Note what a step of an optimizer has just done."""
        held = self._wiring.held_by(optimizer)
        with torch.no_grad():
            after = self._samples(held)
            before = {n: self._now[n] for n, v in after.items() if _alike(v, self._now.get(n))}
            deltas = _differences([after[name] for name in before], list(before.values()))
            sizes = ledger.note_placed(norms(deltas))
            weights = ledger.note_placed(norms(list(before.values())))
            changed = ledger.note_placed(norms(deltas, 0))
            driven = self._driven(held, ledger)
            moved = _distances(before, self._stepped, ledger)
            numbers = {}
            for i, (name, values) in enumerate(before.items()):
                parameter = held[name]
                group = self._wiring.group_of(parameter)
                settings = optimizer.param_groups[group]
                numbers[name] = _Numbers(
                    update=sizes[i],
                    weight=weights[i],
                    size=values.numel(),
                    changed=changed[i],
                    driven=driven.get(name),
                    moved=moved.get(name),
                    lr=_number(settings.get("lr"), math.nan),
                    base_lr=_number(settings.get("initial_lr"), math.nan),
                    weight_decay=_number(settings.get("weight_decay"), 0.0),
                    decay=self._wiring.decay(optimizer, group),
                    normalizes=id(parameter) in self._trace.scales,
                    group=group,
                    fan_in=parameter.numel() // parameter.shape[0] if parameter.ndim > 1 else 0,
                    trainable=parameter.requires_grad,
                    stateful=bool(optimizer.state.get(parameter)),
                )
                self._stepped[name] = values
                # A later step in the same batch starts from here.
                self._now[name] = after[name]
        label = self._wiring.label(optimizer)
        return UpdateDraft(label, self._wiring.is_scheduled(optimizer), numbers)

    def _driven(self, held: Mapping[str, Parameter], ledger: Ledger) -> dict[str, Entry]:
        """Note how many of the sampled elements have a gradient that is not zero."""
        few = self._samples(
            {
                name: p.grad
                for name, p in held.items()
                if p.grad is not None and p.grad.layout is torch.strided
            }
        )
        counts = ledger.note_placed(norms(list(few.values()), 0))
        return dict(zip(few, counts, strict=True))

    def _samples(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size = min(PARAMETER_SAMPLE, max(16, MOST_SAMPLED // max(1, len(self._wiring.parameters))))
        values = {name: v for name, tensor in tensors.items() if (v := dense(tensor)) is not None}
        with torch.no_grad():
            return samples(values, size)


def _number(value: object, default: float) -> float:
    """Return a setting of an optimizer; not if it is a tensor, which lives on a device."""
    return float(value) if isinstance(value, (int, float)) else default


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def _differences(now: Sequence[Tensor], then: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_sub(list(now), list(then))) if now else []


def _distances(
    now: Mapping[str, Tensor], then: Mapping[str, Tensor], ledger: Ledger
) -> dict[str, Entry]:
    """Note the largest change of each sample; of those that were taken both times."""
    both = [name for name, values in now.items() if _alike(values, then.get(name))]
    deltas = _differences([now[name] for name in both], [then[name] for name in both])
    return dict(zip(both, ledger.note_placed(norms(deltas, math.inf)), strict=True))
