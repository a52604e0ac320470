"""Values that autograd takes for constants, recorded and given again.

A finite difference moves everything; autograd does not look behind ``detach`` or ``no_grad``. So
that the two answer the same question, what was cut off in the first run keeps its value in the
others: straight-through estimators, stop-gradients, targets of a teacher, loss weights read with
``item()`` and choices made by comparison are then what they are for autograd. So are weights that
the step freezes for a part of it, as those of a critic while its actor is judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lightning_debug.experiments.batches import COUNTED, distinct, duplicate
from lightning_debug.experiments.replica import NotApplicableError
from lightning_debug.taps.statistics import sample, tensors_in

READS = frozenset(
    """item __float__ __int__ __bool__ __index__ tolist equal allclose is_nonzero""".split()
)
HOOKS = frozenset(["register_hook"])
OURS = frozenset(["requires_grad_", "backward", "retain_grad", "register_hook"])


Applied = Callable[[type[Function], tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]


@dataclass
class _Cut:
    name: str
    value: Any
    alias: Tensor | None = None

    @property
    def edited(self) -> bool:
        """Tell whether something was written through an alias that autograd does not see."""
        return self.alias is not None and self.alias._version > 0

    @property
    def rounded(self) -> bool:
        """Tell whether what was written is the value of before, brought down to a few."""
        return self.edited and self.alias is not None and rounds(self.value, self.alias)


class Cuts(TorchFunctionMode):
    """Records the values that were cut off from the graph, in order; then gives them again.

    Args:
        applied: Told of every custom function that is applied while recording: its class, its
            arguments, and how to run it.

    Attributes:
        hooked: Whether a hook on a gradient was registered on the way.
    """

    def __init__(self, applied: Applied | None = None) -> None:
        super().__init__()
        self.applied = applied
        self.hooked = False
        self._written = False
        self._cuts: list[_Cut] = []
        self._position = 0
        self._replaying = False
        self._weights: Mapping[int, Tensor] = {}
        self._paused = 0

    @property
    def rounded(self) -> bool:
        """Tell whether values were rounded behind autograd's back: a straight-through gradient."""
        return self._written or any(cut.rounded for cut in self._cuts)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is cut off inside."""
        self._cuts, self._replaying = [], False
        with self._around_functions(), self:
            yield

    @contextlib.contextmanager
    def replaying(self, weights: Mapping[int, Tensor] | None = None) -> Iterator[None]:
        """Give the recorded values again, in the same order.

        Args:
            weights: Of the parameters that are moved, by their identities, the values that they
                had while recording. They have them again where the step has frozen them.
        """
        self._position, self._replaying, self._weights = 0, True, weights or {}
        with self._around_functions(), self:
            yield

    @contextlib.contextmanager
    def _around_functions(self) -> Iterator[None]:
        """Leave alone what runs inside custom functions: their forward has no graph by design."""
        base: Any = Function.__mro__[1]

        def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
            def run() -> Any:
                self._paused += 1
                try:
                    return super(base, cls).apply(*args, **kwargs)  # type: ignore[misc]
                finally:
                    self._paused -= 1

            if self._replaying or self.applied is None:
                return run()
            return self.applied(cls, args, kwargs, run)

        # On the base, because programs keep ``MyFunction.apply`` itself.
        base.apply = classmethod(apply)
        try:
            yield
        finally:
            del base.apply

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function; what it cuts off comes from the first run."""
        kwargs = kwargs or {}
        inputs = list(tensors_in((args, kwargs)))
        sets = _in_place(func) or getattr(func, "__name__", "") == "__set__"
        if self._replaying and not sets and any(map(self._is_frozen, inputs)):
            args, kwargs = tree_map_only(Tensor, self._unmoved, (args, kwargs))
            inputs = list(tensors_in((args, kwargs)))
        attached = any(tensor.requires_grad for tensor in inputs)
        before = None
        if attached and not self._replaying and _writes(func) and isinstance(args[0], Tensor):
            before = args[0].detach().clone()
        out = func(*args, **kwargs)
        if before is not None:
            self._written = self._written or rounds(before, args[0].detach())
        name = getattr(func, "__name__", "")
        self.hooked = self.hooked or name in HOOKS
        if self._paused or not attached or name in OURS:
            return out
        if name in READS:
            return self._kept(name, out)
        outputs = list(tensors_in(out, depth=1))
        if not outputs or any(tensor.requires_grad for tensor in outputs):
            return out
        if any(o is i for o in outputs for i in inputs):
            kept = self._kept(name, out)
            if self._replaying:
                with torch.no_grad():
                    for old, new in zip(outputs, tensors_in(kept, depth=1), strict=True):
                        old.copy_(new)
            return out
        alias = out if func == Tensor.data.__get__ else None  # type: ignore[attr-defined]
        return self._kept(name, out, alias)

    def _is_frozen(self, tensor: Tensor) -> bool:
        return id(tensor) in self._weights and not tensor.requires_grad

    def _unmoved(self, tensor: Tensor) -> Tensor:
        return self._weights[id(tensor)].to(tensor) if self._is_frozen(tensor) else tensor

    def _kept(self, name: str, value: Any, alias: Tensor | None = None) -> Any:
        if not self._replaying:
            self._cuts.append(_Cut(name, duplicate(value), alias))
            return value
        if self._position >= len(self._cuts) or self._cuts[self._position].name != name:
            raise NotApplicableError("the step takes another way when weights change a little")
        cut = self._cuts[self._position]
        self._position += 1
        return value if cut.edited else duplicate(cut.value)


def _writes(func: Callable[..., Any]) -> bool:
    """Tell whether a function writes to its first argument where autograd does not look."""
    if func == Tensor.data.__set__:  # type: ignore[attr-defined]
        return True
    return _in_place(func) and not torch.is_grad_enabled()


def _in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def rounds(values: Tensor, out: Tensor) -> bool:
    """Tell whether a function brings many different values down to a few."""
    if out.numel() < 8 or values.numel() < 8:
        return False
    kept = sample(out, COUNTED)
    kept = kept[kept != kept.mode().values]
    left = distinct(kept)
    return left <= 0.5 * kept.numel() and left < 0.5 * distinct(values)
