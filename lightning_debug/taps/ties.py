"""Parameters that are one, and those that were meant to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy

from lightning_debug.observation import Tie
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, dense, sample
from lightning_debug.taps.transfer import Entry, Ledger

LOOKUPS = frozenset(["embedding"])
PRODUCTS = frozenset(["linear", "matmul", "__matmul__", "mm"])
MOST_PAIRS = 16

Groups = frozenset[tuple[str, ...]]


def tied(model: Module) -> Groups:
    """Return the names of parameters that are one object under several names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return frozenset(tuple(group) for group in names.values() if len(group) > 1)


@dataclass(eq=False)
class _Copy:
    """An embedding and an output layer of the same shape."""

    table: Parameter
    output: Parameter
    first: Entry
    varied: Entry
    now: Entry = field(default_factory=lambda: Entry(0.0))


class TieTap(Listener):
    """Sees what was tied before training, what shares memory, and which layer starts as a copy.

    Args:
        model: Its parameters are compared by identity, by memory and by value.
        groups: What was tied when the trainer got the model.
    """

    names = LOOKUPS | PRODUCTS

    def __init__(self, model: Module, groups: Iterable[tuple[str, ...]] = ()) -> None:
        self._model = model
        self._groups = frozenset(groups) | tied(model)
        self._ledger = Ledger()
        self._on = False
        self._first = True
        self._fresh = True
        self._found: list[Tie] = []
        self._tables: dict[int, tuple[Parameter, Tensor]] = {}
        self._outputs: dict[int, tuple[Parameter, Tensor]] = {}
        self._copies: list[_Copy] = []

    def begin(self, ledger: Ledger, *, wanted: bool, fresh: bool) -> None:
        """Start a look.

        Args:
            ledger: Takes the numbers.
            wanted: Whether any check asks.
            fresh: Whether no optimizer has changed the weights yet.
        """
        self._ledger = ledger
        self._on = wanted
        self._fresh = fresh
        self._found = []
        if not wanted:
            return
        self._found = [*self._parted(), *self._sharing()]
        with torch.no_grad():
            for copy in self._copies:
                copy.now = _apart(_few(copy.table), _few(copy.output), ledger)

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Remember the values of a table, and of what a prediction is made with."""
        if not (self._on and self._first and self._fresh):
            return
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        lookup = getattr(func, "__name__", "") in LOOKUPS
        if isinstance(weight, Tensor) and not isinstance(weight, Parameter):
            weight = weight._base  # its transpose
        if not isinstance(weight, Parameter) or weight.ndim != 2 or not weight.requires_grad:
            return
        known = self._tables if lookup else self._outputs
        if id(weight) not in known and (few := _few(weight)) is not None:
            known[id(weight)] = weight, few.clone()

    def end(self) -> None:
        """Compare the tables of the first look with its layers, and let go of the tensors."""
        pairs = [
            (table, output)
            for table in self._tables.values()
            for output in self._outputs.values()
            if table[0] is not output[0] and table[0].shape == output[0].shape
        ]
        with torch.no_grad():
            for (table, one), (output, other) in pairs[:MOST_PAIRS]:
                varied = self._ledger.note(one.amax() - one.amin())
                first = _apart(one, other, self._ledger)
                self._copies.append(_Copy(table, output, first, varied))
        self._first = self._first and not self._on
        self._tables, self._outputs = {}, {}

    def observations(self) -> tuple[Tie, ...]:
        """Return the pairs; once the numbers have arrived."""
        self._copies = [c for c in self._copies if c.first.value == 0.0 and c.varied.value > 0.0]
        names = {id(p): name for name, p in self._model.named_parameters()}
        copies = [
            Tie(
                first=names[id(copy.table)],
                second=names[id(copy.output)],
                kind="copy",
                apart=copy.now.value != 0.0,
            )
            for copy in self._copies
            if id(copy.table) in names and id(copy.output) in names
        ]
        return (*self._found, *copies)

    def _parted(self) -> list[Tie]:
        if not self._groups:
            return []
        named = dict(self._model.named_parameters(remove_duplicate=False))
        return [
            Tie(first=one, second=other)
            for group in self._groups
            for one, other in combinations(group, 2)
            if one in named and other in named and _two(named[one], named[other])
        ][:MOST_PAIRS]

    def _sharing(self) -> list[Tie]:
        homes: dict[tuple[torch.device, int, int], list[str]] = defaultdict(list)
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad and (place := _memory(parameter)):
                homes[parameter.device, place, parameter.numel()].append(name)
        return [
            Tie(first=one, second=other, kind="memory", apart=False)
            for group in homes.values()
            for one, other in combinations(group, 2)
        ][:MOST_PAIRS]


def _two(one: Parameter, other: Parameter) -> bool:
    """Tell whether two parameters are trained apart from each other."""
    trained = one.requires_grad and other.requires_grad
    return trained and one is not other and (_memory(one) or 1) != (_memory(other) or 2)


def _memory(parameter: Parameter) -> int:
    """Return the address of the first element; 0 where there is none to speak of."""
    if is_lazy(parameter) or parameter.layout is not torch.strided or parameter.numel() == 0:
        return 0
    try:
        return parameter.data_ptr()
    except RuntimeError:
        return 0  # a tensor without memory of its own


def _few(parameter: Parameter) -> Tensor | None:
    values = dense(parameter)
    return None if values is None else sample(values, PARAMETER_SAMPLE)


def _apart(one: Tensor | None, other: Tensor | None, ledger: Ledger) -> Entry:
    if one is None or other is None or one.shape != other.shape or one.device != other.device:
        return Entry(1.0)
    return ledger.note((one - other).abs().amax())
