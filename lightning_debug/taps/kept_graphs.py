"""Which steps are still in memory with the graphs that they made."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from lightning_debug.observation import Holder, KeptGraphs, Observation
from lightning_debug.taps.graph import nearby
from lightning_debug.taps.lines import LIBRARIES
from lightning_debug.taps.look import LookTap

KEY = "lightning_debug"
# Where a model lets go of what it has kept for an epoch.
EPOCH_HOOKS = ("on_train_epoch_start", "on_train_epoch_end")
MOST_MARKS = 64
DEEPEST = 64
MOST_NODES = 512
MOST_ITEMS = 2_000
FEW = 4
NESTED = (Tensor, list, tuple, Mapping)


class _Sign:
    """Lies in the nodes of a graph, and is gone when they are."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class _Mark:
    step: int
    epoch: int
    sign: weakref.ref[_Sign]


class KeptGraphTap(LookTap):
    """Marks the graph of a step at each look, and sees later which marks are still there.

    The mark lies in the metadata of the graph's nodes, which live as long as anything that was
    computed from them: a loss in a list, a running mean that was never detached, a prediction.
    It keeps nothing alive itself.
    """

    name: ClassVar[str] = "the tap on kept graphs"
    kinds: ClassVar[tuple[type[Observation], ...]] = (KeptGraphs,)

    def __init__(self, model: Module) -> None:
        self._model = model
        self._marks: list[_Mark] = []
        self._step = self._epoch = 0
        self._first: int | None = None

    def passes(self, step: int, epoch: int) -> None:
        """Note where the run is."""
        self._step, self._epoch = step, epoch
        self._first = epoch if self._first is None else self._first

    def before_backward(self, loss: Tensor) -> None:
        """Mark the graph behind a loss."""
        if loss.grad_fn is None or len(self._marks) >= MOST_MARKS:
            return
        sign = _Sign()
        for node in itertools.islice(nearby(loss.grad_fn, DEEPEST), MOST_NODES):
            if not hasattr(node, "variable"):  # that one belongs to a parameter
                node.metadata[KEY] = sign  # type: ignore[index]  # a property, and no method
        self._marks.append(_Mark(self._step, self._epoch, weakref.ref(sign)))

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return which steps before this look are still there."""
        yield self._seen(step, epoch)

    def rest(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return which steps are still there when the run is over."""
        one_epoch = self._epoch == self._first
        final = one_epoch and not any(_overrides(self._model, name) for name in EPOCH_HOOKS)
        # The trainer counts the last epoch as past; what was kept for it may still be there.
        yield self._seen(step, self._epoch, final=final)

    def _seen(self, step: int, epoch: int, *, final: bool = False) -> KeptGraphs:
        self._marks = [mark for mark in self._marks if mark.sign() is not None]
        # The last step may be held by what it is still working on.
        steps = tuple((m.step, m.epoch) for m in self._marks if m.step < step - 1)
        holders = tuple(_holders(self._model)) if len(steps) >= FEW else ()
        return KeptGraphs(step=step, epoch=epoch, steps=steps, holders=holders, final=final)


def _overrides(model: Module, name: str) -> bool:
    """Tell whether the user's own class has a method, or an object has one of its own."""
    homes = [cls for cls in type(model).__mro__ if name in vars(cls)]
    package = homes[0].__module__.partition(".")[0] if homes else ""
    return name in vars(model) or (bool(homes) and package not in LIBRARIES)


def _holders(model: Module) -> Iterator[Holder]:
    """Yield the attributes of modules that hold tensors with a graph."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            count = _with_graph(value)
            if count:
                place = ".".join(filter(None, ("self", path, name)))
                bounded = isinstance(value, deque) and value.maxlen is not None
                metric = isinstance(module, Metric)
                yield Holder(place=place, count=count, bounded=bounded or metric)


def _with_graph(value: Any) -> int:
    """Return how many tensors with a graph a value holds."""
    if isinstance(value, Tensor):
        return int(value.grad_fn is not None)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, deque, set)):
        few = itertools.islice(value, MOST_ITEMS)
        return sum(_with_graph(item) for item in few if isinstance(item, NESTED))
    return 0
