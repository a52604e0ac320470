"""Parameters that the training step computes with and that the model does not know."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from lightning_debug.observation import Stranger
from lightning_debug.taps.functions import MIXERS
from lightning_debug.taps.lines import LIBRARIES, user_line
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, dense, sample
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Entry, Ledger

MOST = 32
MOST_ALIKE = 64
MOST_HOLDERS = 5_000
DEPTH = 4
ALIKE = 0.5
OWN_OF_MODULES = frozenset(vars(Module()))


@dataclass(eq=False)
class Draft:
    """A parameter that is not registered, and what becomes of it in the batch."""

    parameter: Parameter
    modules: tuple[Module, ...]
    place: str
    line: str
    late: bool
    values: Tensor
    copied: Entry
    varied: Entry
    mixed: bool
    kind: str = "Parameter"
    label: str = ""
    anew: bool = False
    resting: bool = False
    gradient: bool = False
    adapted: Entry = field(default_factory=lambda: Entry(0.0))
    moved: Entry | None = None
    optimizer: str = ""


class StrangerTap:
    """Compares what the functions of the training step are handed with what the model owns.

    Args:
        trace: Knows which modules run.
        model: Searched for the place where a user holds a parameter.
    """

    def __init__(self, trace: Trace, model: Module) -> None:
        self._trace = trace
        self._model = model
        self._ledger = Ledger()
        self._on = False
        self._registered: Mapping[str, Parameter] = {}
        self._known: set[int] = set()
        self._drafts: dict[int, Draft] = {}
        self._alike: dict[torch.Size, list[Tensor]] = {}
        self._held: dict[int, str] = {}
        self._before: dict[int, tuple[weakref.ref[Parameter], Tensor]] = {}
        self._labels: dict[int, str] = {}
        self._seen: dict[str, list[weakref.ref[Parameter]]] = {}

    def begin(self, ledger: Ledger, registered: Mapping[str, Parameter], *, wanted: bool) -> None:
        """Start a look."""
        self._ledger = ledger
        self._on = wanted
        self._registered = registered
        self._known = {id(parameter) for parameter in registered.values()}
        self._drafts = {}
        self._alike = {}

    def used(
        self,
        name: str,
        inputs: Sequence[Tensor],
        weights: Sequence[Parameter],
        outputs: Sequence[Tensor],
    ) -> None:
        """Hear of a function that was handed parameters."""
        if not self._on or not torch.is_grad_enabled():
            return
        for weight in weights:
            if id(weight) in self._known:
                continue
            if id(weight) in self._drafts:
                self._drafts[id(weight)].mixed |= name in MIXERS and weight is not inputs[0]
            elif weight.requires_grad and any(
                out.requires_grad and out is not weight
                for out in outputs  # nor initialised
            ):
                self._meet(weight, mixed=name in MIXERS and weight is not inputs[0])

    def stepped(self, optimizer: Optimizer) -> None:
        """Hear of an optimizer that makes a step, whoever built it."""
        if self._on and self._drafts:
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for key in held & self._drafts.keys():
                self._held[key] = type(optimizer).__name__

    def end(self) -> None:
        """Measure what has become of the strangers, and let go of them."""
        drafts = list(self._drafts.values())
        if not drafts:
            self._before, self._labels, self._seen, self._held = {}, {}, {}, {}
            return
        with torch.no_grad():
            for draft in drafts:
                self._close(draft)
        self._name(drafts)
        now: dict[str, list[weakref.ref[Parameter]]] = {}
        for draft in drafts:
            gone = self._seen.get(draft.label)
            draft.anew = gone is not None and all(
                ref() is None or (draft.late and ref() is not draft.parameter) for ref in gone
            )
            now.setdefault(draft.label, []).append(weakref.ref(draft.parameter))
        self._seen = now
        self._before = {
            key: (weakref.ref(draft.parameter), draft.values) for key, draft in self._drafts.items()
        }
        self._labels = {key: draft.label for key, draft in self._drafts.items()}
        self._held = {key: name for key, name in self._held.items() if key in self._drafts}

    def take(self) -> list[Draft]:
        """Return the strangers of this look, without the tensors."""
        drafts, self._drafts = list(self._drafts.values()), {}
        self._alike, self._registered = {}, {}
        for draft in drafts:
            del draft.parameter, draft.modules, draft.values
        return drafts

    def _meet(self, weight: Parameter, *, mixed: bool) -> None:
        values = dense(weight)
        if values is None or len(self._drafts) >= MOST:
            return
        modules = []
        late = False
        # Innermost first: the last one that holds it and is not ours is what the user hides.
        for frame in reversed(self._trace.frames):
            owns = any(own is weight for own in frame.module.parameters())
            if owns and frame.path is not None:
                late = True  # it has become ours since the batch began
                break
            if owns:
                modules.append(frame.module)
        with torch.no_grad():
            few = sample(values, PARAMETER_SAMPLE).clone()
            self._drafts[id(weight)] = Draft(
                weight,
                tuple(modules),
                self._trace.place,
                user_line(),
                late,
                few,
                self._copied(weight, few),
                self._ledger.note(few.amax() - few.amin()),
                mixed,
                kind=type(modules[0]).__name__ if modules else "Parameter",
                # What is put in eval mode while the model trains is a helper.
                resting=any(not module.training for module in modules),
            )

    def _copied(self, weight: Parameter, few: Tensor) -> Entry:
        """Note how far the parameter of the model that is most like it is, relative to its size."""
        if weight.shape not in self._alike:
            same = [p for p in self._registered.values() if p.shape == weight.shape]
            values = [v for p in same[:MOST_ALIKE] if (v := dense(p)) is not None]
            self._alike[weight.shape] = [
                sample(v, PARAMETER_SAMPLE) for v in values if v.device == few.device
            ]
        others = [v for v in self._alike[weight.shape] if v.shape == few.shape]
        if not others:
            return Entry(1.0)
        apart = (torch.stack([v.to(few.dtype) for v in others]) - few).norm(dim=1)
        return self._ledger.note(apart.amin() / few.norm().clamp_min(torch.finfo(few.dtype).tiny))

    def _close(self, draft: Draft) -> None:
        key = id(draft.parameter)
        values = dense(draft.parameter)
        draft.gradient = draft.parameter.grad is not None
        draft.optimizer = self._held.get(key, "")
        if values is not None:
            few = sample(values, PARAMETER_SAMPLE)
            if few.shape == draft.values.shape:
                draft.adapted = self._ledger.note((few - draft.values).abs().amax())
        before = self._before.get(key)
        if before is not None and before[0]() is draft.parameter:
            if before[1].shape == draft.values.shape:
                draft.moved = self._ledger.note((draft.values - before[1]).abs().amax())
            draft.label = self._labels.get(key, "")

    def _name(self, drafts: Sequence[Draft]) -> None:
        """Find out where the user holds the strangers."""
        new = {id(d.parameter): d for d in drafts if not d.label}
        if new:
            for name, parameter in self._model.named_parameters():
                if id(parameter) in new:
                    new[id(parameter)].label = name
        owners = {id(m): d for d in new.values() if not d.label for m in d.modules}
        owners |= {key: d for key, d in new.items() if not d.label}
        for path, value in _holders(self._model, owners.keys() if owners else ()):
            for draft in new.values():
                if draft.label:
                    continue
                if value is draft.parameter:
                    draft.label = path
                elif isinstance(value, Module) and any(value is m for m in draft.modules):
                    draft.label = f"{path}.{_inner(value, draft.parameter)}"
        for draft in new.values():
            inner = _inner(draft.modules[0], draft.parameter) if draft.modules else ""
            home = draft.place or "training_step"
            draft.label = draft.label or ".".join(filter(None, [draft.kind, inner])) + f" in {home}"


def observation(draft: Draft) -> Stranger | None:
    """Return the numbers that have arrived; None for what is no layer of a model."""
    if draft.anew and (
        draft.varied.value == 0.0 or (draft.kind == "Parameter" and not draft.mixed)
    ):
        return None  # a norm that starts at one; something that is added to the data
    if draft.late and not draft.anew:
        return None  # made at its first use, or gathered from shards
    return Stranger(
        where=draft.label,
        kind=draft.kind,
        place=draft.place,
        line=draft.line,
        anew=draft.anew,
        moved=None if draft.moved is None else draft.moved.value != 0.0,
        optimizer=draft.optimizer,
        # What is made for the step may be a copy with noise on it; random weights are not alike.
        copied=draft.copied.value <= (ALIKE if draft.anew else 0.0),
        adapted=draft.adapted.value != 0.0,
        resting=draft.resting,
        gradient=draft.gradient,
    )


def _inner(module: Module, parameter: Parameter) -> str:
    return next((name for name, own in module.named_parameters() if own is parameter), "")


def _holders(model: Module, wanted: Collection[int]) -> Iterator[tuple[str, Any]]:
    """Yield what is wanted with the place where the attributes of the model hold it."""
    if not wanted:
        return
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in OWN_OF_MODULES:
                yield from _inside(f"{path}.{name}" if path else name, value, wanted, seen, DEPTH)


def _inside(
    path: str, value: Any, wanted: Collection[int], seen: set[int], depth: int
) -> Iterator[tuple[str, Any]]:
    if id(value) in wanted:
        yield path, value
    if not depth or id(value) in seen or len(seen) > MOST_HOLDERS:
        return
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, Module):
        items = [(f"{path}.{name}", child) for name, child in value.named_children()]
    elif _is_own(value):
        items = [(f"{path}.{name}", item) for name, item in vars(value).items()]
    if items:
        seen.add(id(value))
    for name, item in items:
        yield from _inside(name, item, wanted, seen, depth - 1)


def _is_own(value: Any) -> bool:
    """Tell whether a value is an object of a class that the user wrote."""
    written = type(value).__module__.partition(".")[0] not in LIBRARIES
    return written and hasattr(value, "__dict__") and not isinstance(value, (Tensor, type))
