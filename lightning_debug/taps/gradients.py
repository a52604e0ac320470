"""The gradients that an optimizer is about to use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_debug.observation import Gradients, ParameterGradient, owner
from lightning_debug.taps.statistics import (
    PARAMETER_SAMPLE,
    dense,
    norms,
    on_host,
    samples,
)
from lightning_debug.taps.trace import Cut
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring, inside, spread_of_twins, spread_of_units

SENTINEL = 512


@dataclass
class _Numbers:
    """One parameter: entries on their way to the host, and what the host knows already."""

    shape: tuple[int, ...]
    weight: Entry
    weight_size: int
    norm: Entry
    largest: Entry
    nonzero: Entry
    present: bool = False
    ever: bool = False
    size: int = 1
    sampled: int = 1
    apart: tuple[Entry, ...] = ()


@dataclass
class GradientDraft:
    """The gradients of one optimizer at one look, on their way to the host."""

    optimizer: str
    numbers: dict[str, _Numbers]
    orphans: dict[str, Entry]
    holders: dict[str, str]

    def shares(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """Yield what adds up over processes that each have a part of a parameter.

        Squares of the norms of the weight, the gradient and its largest element, the counts of
        sampled elements that are not zero and of all of them, and the sizes of both.
        """
        for name, n in self.numbers.items():
            counts = (n.sampled, n.size) if n.present else (0, 0)
            nonzero = n.nonzero.value if n.present else 0.0
            norms = (n.weight.value**2, n.norm.value**2, n.largest.value**2)
            yield name, (*norms, nonzero, *counts, n.weight_size)

    def settle(self, name: str, numbers: Sequence[float]) -> None:
        """Take what :meth:`shares` of all processes add up to; the largest element is a bound."""
        n = self.numbers.get(name)
        if n is None:
            return
        weight, norm, largest, nonzero, sampled, size, weight_size = numbers
        n.weight.settle(math.sqrt(weight))
        n.norm.settle(math.sqrt(norm))
        n.largest.settle(math.sqrt(largest))
        n.nonzero.settle(nonzero)
        n.sampled, n.size, n.weight_size = (max(1, round(c)) for c in (sampled, size, weight_size))

    def observation(
        self,
        step: int,
        epoch: int,
        *,
        ran: Mapping[str, int],
        used: set[str],
        routed: set[str],
        ends: set[str],
        still: set[str],
        loss: float,
        muted: bool,
        stepped: bool,
        cuts: Mapping[str, Cut],
    ) -> Gradients:
        """Return the numbers that have arrived.

        Args:
            step: Optimizer updates made so far.
            epoch: Epoch, counted from 0.
            ran: Position of the first run of each module, by path.
            used: Names of parameters that were handed to a function.
            routed: Paths of modules that stood idle while a sibling ran.
            ends: Paths of modules that feed no other module with weights.
            still: Names of parameters that no optimizer steps, and nobody has changed since the
                last look.
            loss: The loss that the gradients belong to.
            muted: Whether a term of the loss was multiplied by 0.
            stepped: Whether the optimizer used them.
            cuts: What ended the graph of parameters without a gradient, by name.
        """
        whole = Cut("", "", "")

        def one(name: str, n: _Numbers) -> ParameterGradient:
            home = owner(name)
            share = max(n.nonzero.value / n.sampled, 1.0 / n.size)
            return ParameterGradient(
                present=n.present,
                norm=n.norm.value,
                largest=n.largest.value,
                rms=n.norm.value / math.sqrt(n.size * share),
                weight_rms=n.weight.value / math.sqrt(n.weight_size),
                weight_norm=n.weight.value,
                finite=math.isfinite(n.largest.value),
                weight_finite=math.isfinite(n.weight.value),
                dims=len(n.shape),
                order=ran.get(home, -1),
                executed=not ran or home in ran or name in used,
                routed=any(inside(home, path) for path in routed),
                end=home in ends,
                ever=n.ever,
                unit_spread=n.apart[0].value if n.apart else math.nan,
                gradient_spread=n.apart[1].value if n.apart else math.nan,
                cut=cuts.get(name, whole).name,
                cut_line=cuts.get(name, whole).line,
                cut_place=cuts.get(name, whole).place,
            )

        alone = [k for k, e in self.orphans.items() if e.value > 0 and k in still]
        return Gradients(
            step=step,
            epoch=epoch,
            optimizer=self.optimizer,
            parameters={name: one(name, n) for name, n in self.numbers.items()},
            orphans=tuple(name for name in alone if not self.holders[name]),
            waiting={name: self.holders[name] for name in alone if self.holders[name]},
            loss=loss,
            muted=muted,
            stepped=stepped,
        )


class GradientTap:
    """Measures the gradients of an optimizer's parameters, fused over all of them.

    Attributes:
        largest: The largest magnitude of those measured last, where they lie on the host.
        symmetric: Names of parameters whose units have started out alike.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.symmetric: set[str] = set()
        self._wiring = wiring
        self._seen: set[str] = set()
        self._sentinels: dict[int, Parameter | None] = {}
        self.largest: Tensor | None = None

    def broken(self, optimizer: Optimizer) -> bool:
        """Tell whether NaN has come back to the first small parameter that lies on the host.

        From wherever it is born, NaN spreads to all that was computed before. Costs as much as a
        look at a few numbers, and nothing where a device would have to be waited for.
        """
        if id(optimizer) not in self._sentinels:
            held = self._wiring.held_by(optimizer).values()
            small = (p for p in held if p.requires_grad and p.numel() <= SENTINEL)
            self._sentinels[id(optimizer)] = next(small, None)
        sentinel = self._sentinels[id(optimizer)]
        gradient = None if sentinel is None else sentinel.grad
        values = None if gradient is None else on_host(gradient)
        return values is not None and not np.isfinite(values).all()

    def measure(self, optimizer: Optimizer, ledger: Ledger) -> GradientDraft:
        """Note the numbers of all gradients that an optimizer is about to use."""
        self._wiring.steps(optimizer)
        held = {n: p for n, p in self._wiring.held_by(optimizer).items() if p.requires_grad}
        with torch.no_grad():
            orphans = self._wiring.orphans()
            return GradientDraft(
                self._wiring.label(optimizer),
                self._numbers(held, optimizer, ledger),
                self._largest(orphans, ledger),
                {name: self._wiring.name_holder(p) for name, p in orphans.items()},
            )

    def _numbers(
        self, held: Mapping[str, Parameter], optimizer: Optimizer, ledger: Ledger
    ) -> dict[str, _Numbers]:
        weights = {n: v for n, p in held.items() if (v := dense(p)) is not None}
        values = {n: v for n in weights if (v := dense(held[n].grad)) is not None}
        flat = list(values.values())
        few = list(samples(values, PARAMETER_SAMPLE).values())
        tops = norms(flat, math.inf)
        near = bool(tops) and all(row.device.type == "cpu" for _, row in tops)
        self.largest = torch.cat([row for _, row in tops]).amax() if near else None
        noted = zip(
            ledger.note_placed(norms(flat)),
            ledger.note_placed(tops),
            ledger.note_placed(norms(few, 0)),
            strict=True,
        )
        measured = dict(zip(values, noted, strict=True))
        sampled = {name: v.numel() for name, v in zip(values, few, strict=True)}
        numbers = {}
        sizes = ledger.note_placed(norms(list(weights.values())))
        for (name, weight), size in zip(weights.items(), sizes, strict=True):
            found = measured.get(name) or (Entry(0.0), Entry(0.0), Entry(1.0))
            numbers[name] = n = _Numbers(tuple(held[name].shape), size, weight.numel(), *found)
            n.present = held[name].grad is not None
            n.ever = name in self._seen or bool(optimizer.state.get(held[name]))
            if name not in values:
                continue
            gradient = values[name]
            n.size, n.sampled = gradient.numel(), sampled[name]
            if name in self.symmetric and gradient.shape == weight.shape:
                n.apart = tuple(
                    ledger.note(torch.minimum(spread_of_units(v), spread_of_twins(v)))
                    for v in (weight, gradient)
                )
        self._seen.update(values)
        return numbers

    def _largest(self, parameters: Mapping[str, Parameter], ledger: Ledger) -> dict[str, Entry]:
        values = {n: v for n, p in parameters.items() if (v := dense(p.grad)) is not None}
        tops = ledger.note_placed(norms(list(values.values()), math.inf))
        return dict(zip(values, tops, strict=True))
