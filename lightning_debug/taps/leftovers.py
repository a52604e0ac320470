"""Which backward passes wrote the gradients that an optimizer uses."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_debug.observation import GradientUse, LossCall, LossTerm
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, dense, sample
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring

PROBES = 4
MOST_EVENTS = 64


@dataclass(eq=False)
class _Probe:
    """A parameter of an optimizer, and what its gradient held when it was last seen."""

    parameter: Parameter
    last: Tensor | None = None


@dataclass(eq=False)
class _Backward:
    """One backward pass: for each optimizer, whether it found old gradients and added to them."""

    batch: int
    total: int
    kept: dict[str, Entry]
    wrote: dict[str, Entry] = field(default_factory=dict)


@dataclass(eq=False)
class _Step:
    """One step of an optimizer."""

    batch: int
    optimizer: str
    factor: Entry
    empty: bool


@dataclass(eq=False)
class _Written:
    """A backward pass whose gradients are still there."""

    batch: int
    optimizers: frozenset[str]
    weight: float
    scaled: bool
    summed: bool
    stepped: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _Content:
    """What the gradients of an optimizer are made of."""

    written: list[_Written] = field(default_factory=list)
    used: bool = False
    again: bool = False
    known: bool = False
    others: bool = False


class LeftoverTap(Listener):
    """Follows the gradients of a few parameters of each optimizer through the batches.

    What a backward pass finds and what it leaves is compared on the device; who cleared what,
    and who used what, is put together afterwards. That holds as long as every batch is looked
    at, as at the start of training, and within a batch.
    """

    names = frozenset({"backward"})

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._ledger = Ledger()
        self._on = False
        self._running = False
        self._batch = -2
        self._probes: dict[str, list[_Probe]] = {}
        self._events: list[_Backward | _Step] = []
        self._contents: dict[str, _Content] = defaultdict(_Content)

    def begin(self, ledger: Ledger, batch: int, *, wanted: bool) -> None:
        """Start a look at the batch with this number, counted over the whole run."""
        follows = batch == self._batch + 1
        self._ledger, self._batch, self._on = ledger, batch, wanted
        self._running = False
        self._events = []
        if not wanted:
            return
        old = {id(p.parameter): p for probes in self._probes.values() for p in probes}
        self._probes = {}
        for optimizer in self._wiring.optimizers:
            held = [p for p in self._wiring.held_by(optimizer).values() if p.requires_grad]
            few = held[:: -(-len(held) // PROBES) or 1]
            self._probes[self._wiring.label(optimizer)] = [
                old.get(id(p), _Probe(p)) if follows else _Probe(p) for p in few
            ]
        if not follows:
            self._contents.clear()

    def before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Hear of a backward pass that Lightning is not told of."""
        self.starts(-1)

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of its end."""
        self.ends()

    def starts(self, total: int) -> None:
        """Note what is in the gradients when a backward pass starts.

        Args:
            total: Which of the losses that have been taken apart it starts from; -1 for none.
        """
        if not self._on or len(self._events) >= MOST_EVENTS:
            return
        with torch.no_grad():
            kept = {}
            for label, probes in self._probes.items():
                same = [e for p in probes if (e := _same(p.last, _gradient(p))) is not None]
                kept[label] = self._ledger.note(torch.stack(same).any()) if same else Entry(0.0)
                for probe in probes:
                    probe.last = _gradient(probe)
        self._events.append(_Backward(self._batch, total, kept))
        self._running = True

    def ends(self) -> None:
        """Note whose gradients a backward pass has written."""
        if not self._on or not self._running:
            return
        self._running = False
        event = self._events[-1]
        with torch.no_grad():
            for label, probes in self._probes.items():
                wrote: list[Tensor] = []
                sure = False
                for probe in probes:
                    before, probe.last = probe.last, _gradient(probe)
                    if probe.last is None or before is None:
                        sure = sure or probe.last is not None
                    elif before.shape == probe.last.shape:
                        wrote.append((before != probe.last).any())
                if isinstance(event, _Backward):
                    noted = self._ledger.note(torch.stack(wrote).any()) if wrote else Entry(0.0)
                    event.wrote[label] = Entry(1.0) if sure else noted

    def steps(self, optimizer: Optimizer) -> None:
        """Note what is in the gradients that an optimizer is about to use."""
        if not self._on or len(self._events) >= MOST_EVENTS:
            return
        label = self._wiring.label(optimizer)
        with torch.no_grad():
            pairs = [(p.last, _gradient(p)) for p in self._probes.get(label, ())]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            both = [(a, b) for a, b in both if a.shape == b.shape]
            factor = Entry(0.0)
            if both:
                over = torch.stack([(a * b).sum() for a, b in both]).sum()
                under = torch.stack([(a * a).sum() for a, _ in both]).sum()
                factor = self._ledger.note(over / under)
        # An optimizer that holds nothing of the model has no gradient to miss.
        empty = bool(pairs) and all(now is None for _, now in pairs)
        self._events.append(_Step(self._batch, label, factor, empty))

    def stepped(self, optimizer: Optimizer) -> None:
        """Note what an optimizer leaves in the gradients."""
        if self._on:
            with torch.no_grad():
                for probe in self._probes.get(self._wiring.label(optimizer), ()):
                    probe.last = _gradient(probe)

    @property
    def backwards(self) -> int:
        """Return how many backward passes there were in this look."""
        return sum(isinstance(event, _Backward) for event in self._events)

    def observations(
        self, terms: Sequence[LossTerm], calls: Sequence[LossCall]
    ) -> tuple[GradientUse, ...]:
        """Return the steps of this look; once the numbers have arrived."""
        uses = []
        for event in self._events:
            if isinstance(event, _Backward):
                self._write(event, [t for t in terms if t.total == event.total], calls)
            else:
                uses.append(self._use(event))
        self._events = []
        return tuple(uses)

    def _write(
        self, event: _Backward, terms: Sequence[LossTerm], calls: Sequence[LossCall]
    ) -> None:
        trained = [term for term in terms if term.trained and not term.penalty]
        summed = any(
            t.name.startswith("sum")
            or (0 <= t.call < len(calls) and calls[t.call].reduction == "sum")
            for t in trained
        )
        wrote = frozenset(label for label, entry in event.wrote.items() if entry.value)
        for label, kept in event.kept.items():
            content = self._contents[label]
            if not kept.value:
                content.written, content.used, content.again = [], False, False
            if label in wrote:
                content.again = content.again or content.used
                # A loss that was divided has no term left with nothing before it.
                weight = min((t.weight for t in trained), key=_far, default=math.nan)
                scaled = any(term.scaled for term in trained)
                content.written.append(_Written(event.batch, wrote, weight, scaled, summed))

    def _use(self, event: _Step) -> GradientUse:
        label, content = event.optimizer, self._contents[event.optimizer]
        written, last = content.written, content.written[-1] if content.written else None
        there = abs(event.factor.value) > 0.0
        source = ""
        if last is not None and last.optimizers == {label} and there:
            source = next(
                (
                    other
                    for old in written[:-1]
                    for other in sorted(old.optimizers & old.stepped - {label})
                ),
                "",
            )
        new = [w for w in written if label not in w.stepped]
        fresh = any(w.batch == event.batch for w in new)
        use = GradientUse(
            optimizer=label,
            empty=event.empty,
            cleared=fresh and (event.empty or event.factor.value == 0.0),
            known=content.known,
            again=content.again and there,
            source="" if content.again else source,
            batches=len({w.batch for w in new}),
            factor=event.factor.value,
            weights=tuple(w.weight for w in new),
            scaled=any(w.scaled for w in new),
            summed=any(w.summed for w in new),
            alone=not content.others,
        )
        for name, other in self._contents.items():
            for w in other.written:
                w.stepped.add(label)
            other.others = other.others or name != label
        content.used, content.known, content.others = True, True, False
        return use


def _far(weight: float) -> float:
    return abs(weight - 1.0)


def _gradient(probe: _Probe) -> Tensor | None:
    gradient = probe.parameter.grad
    if gradient is None or gradient.layout is not torch.strided:
        return None
    values = dense(gradient)
    return None if values is None else sample(values, PARAMETER_SAMPLE).clone()


def _same(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Tell whether a gradient is what it was, and not zero."""
    if one is None or other is None or one.shape != other.shape:
        return None
    return (one == other).all() & (one != 0).any()
