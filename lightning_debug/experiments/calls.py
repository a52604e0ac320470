"""The modules that a training step of a replica runs, with what they took and gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from lightning_debug.experiments.batches import duplicate
from lightning_debug.experiments.replica import Replica

MOST_CALLS = 2_000


@dataclass(eq=False, slots=True)
class Call:
    """One run of a module.

    Attributes:
        path: Of the module; empty for the model itself.
        args, kwargs: What it took, as it was before it ran; tensors without a graph.
        out: What it gave; tensors without a graph. None while it runs, or if it raised.
        parent: The call inside which it ran; None for those that the training step made.
    """

    path: str
    module: Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    parent: Call | None = None
    out: Any = None

    @property
    def depth(self) -> int:
        """Return the number of calls inside which it ran."""
        return 0 if self.parent is None else self.parent.depth + 1


class Recorder:
    """Hears of the modules of a replica that run, while it is entered.

    Args:
        replica: Whose modules.
        values: Whether to keep what they take and give.

    Attributes:
        calls: The runs, in the order in which they began.
    """

    def __init__(self, replica: Replica, *, values: bool = True) -> None:
        self.calls: list[Call] = []
        self._copied: Callable[[Any], Any] = duplicate if values else lambda value: None
        self._replica = replica
        self._paths = replica.paths()
        self._running: list[Call] = []
        self._handles: list[RemovableHandle] = []

    @property
    def place(self) -> str:
        """Return the path of the module that runs; empty for the training step itself."""
        return self._running[-1].path if self._running else ""

    def __enter__(self) -> Recorder:
        """Listen."""
        for module in self._replica.modules():
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._running.clear()

    def _enter(self, module: Module, args: Any, kwargs: Any) -> None:
        parent = self._running[-1] if self._running else None
        path = self._paths.get(id(module), "")
        call = Call(path, module, self._copied(args), self._copied(kwargs), parent)
        self._running.append(call)
        if len(self.calls) < MOST_CALLS:
            self.calls.append(call)

    def _leave(self, module: Module, args: Any, kwargs: Any, out: Any) -> None:
        while self._running:
            call = self._running.pop()
            if call.module is module:
                call.out = self._copied(out)
                break
