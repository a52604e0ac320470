"""Where the first NaN comes from: the operation, found by running the step again on a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from lightning_debug.experiments.calls import Recorder
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.observation import NonFiniteBirth
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.statistics import tensors_in

MOST_NODES = 64
SEEDS = (1, 2, 3)
# Their second operand is the one that makes them infinite.
QUOTIENTS = frozenset(["div", "div_", "divide", "true_divide", "__truediv__", "fmod", "remainder"])


@dataclass(eq=False)
class _Birth:
    """An operation that made NaN or infinity of numbers that were finite."""

    function: str
    place: str
    line: str
    operands: Sequence[Tensor]
    nan: bool

    def observation(self, phase: str, step: int, epoch: int) -> NonFiniteBirth:
        """Return it with the range of the operand that did it."""
        second = self.function in QUOTIENTS and len(self.operands) > 1
        low = high = math.nan
        if self.operands and not self.operands[second].is_complex():
            values = self.operands[second].detach()
            finite = values[values.isfinite()].double()
            if finite.numel():
                low, high = float(finite.min()), float(finite.max())
        return NonFiniteBirth(
            step=step,
            epoch=epoch,
            phase=phase,
            function=self.function,
            place=self.place,
            line=self.line,
            low=low,
            high=high,
        )


def birth(replica: Replica, batch: Any, *, step: int, epoch: int) -> NonFiniteBirth:
    """Find the first operation from which a value comes that is not finite in the loss.

    Forward first; where the loss is finite, the first step of backward that turns a finite
    gradient into one that is not. Run with several seeds, because noise may decide.

    Raises:
        NotApplicableError: If the copy gives no such value.
    """
    if any(not bool(t.isfinite().all()) for t, _ in replica.started() if t.is_floating_point()):
        raise NotApplicableError("the weights are not finite any more")
    for seed in SEEDS:
        replica.seed = seed
        recorder = Recorder(replica, values=False)
        watch = _Watch(recorder)
        with recorder, watch:
            losses = replica.losses(batch)
        bad = [loss for loss in losses if not bool(loss.isfinite().all())]
        found = watch.origin(bad[0]) if bad else None
        if found is not None:
            return found.observation("forward", step, epoch)
        if losses and not bad:
            found = watch.backward(torch.stack([loss.reshape(()) for loss in losses]).sum())
            if found is not None:
                return found.observation("backward", step, epoch)
    raise NotApplicableError("the copy gives finite numbers")


class _Watch(TorchFunctionMode):
    """Follows values that are not finite from function to function."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._origins: dict[int, tuple[Tensor, list[_Birth]]] = {}
        self._nodes: dict[Node, _Birth] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, and see whether it made the first NaN."""
        kwargs = kwargs or {}
        inputs = list(tensors_in((args, kwargs)))
        # In-place functions overwrite their operand.
        before = [t.detach().clone() if func.__name__.endswith("_") else t for t in inputs]
        healthy = [bool(t.isfinite().all()) for t in inputs]
        nan = any(bool(t.isnan().any()) for t, ok in zip(inputs, healthy, strict=True) if not ok)
        given = [b for t, ok in zip(inputs, healthy, strict=True) if not ok for b in self._of(t)]
        out = func(*args, **kwargs)
        outputs = [t for t in tensors_in(out, depth=1) if t.is_floating_point()]
        if not outputs:
            return out
        made = _Birth(func.__name__, self._recorder.place, user_line(), before, nan=False)
        self._note_nodes(made, inputs, outputs)
        plain = all(healthy) and not any(_infinite(value) for value in (*args, *kwargs.values()))
        for tensor in outputs:
            if bool(tensor.isfinite().all()):
                self._origins.pop(id(tensor), None)
                continue
            made.nan = made.nan or bool(tensor.isnan().any())
            own = [made] if plain or (made.nan and not nan) else []
            self._origins[id(tensor)] = tensor, [*given, *own]
        return out

    def origin(self, loss: Tensor) -> _Birth | None:
        """Return the first operation from which a value of the loss comes."""
        return next(iter(self._of(loss)), None)

    def backward(self, loss: Tensor) -> _Birth | None:
        """Run backward and return the first operation that breaks a gradient."""
        broken: list[_Birth] = []

        def listen(made: _Birth) -> Callable[..., None]:
            def hear(after: Sequence[Tensor | None], before: Sequence[Tensor | None]) -> None:
                if not broken and _finite(before) and not _finite(after):
                    broken.append(made)

            return hear

        for node, made in self._nodes.items():
            node.register_hook(listen(made))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return broken[0] if broken else None

    def _of(self, tensor: Tensor) -> list[_Birth]:
        found = self._origins.get(id(tensor))
        return found[1] if found and found[0] is tensor else []

    def _note_nodes(
        self, made: _Birth, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """Note which nodes of the graph a function has made."""
        known = {t.grad_fn for t in inputs}
        todo = [t.grad_fn for t in outputs if t.grad_fn is not None]
        for _ in range(MOST_NODES):
            if not todo:
                break
            node = todo.pop()
            if node in known or node in self._nodes or hasattr(node, "variable"):
                continue
            self._nodes[node] = made
            todo += [after for after, _ in node.next_functions if after is not None]


def _infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _finite(gradients: Sequence[Tensor | None]) -> bool:
    return all(g is None or bool(g.isfinite().all()) for g in _strided(gradients))


def _strided(gradients: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
    for g in gradients:
        yield g.coalesce().values() if g is not None and g.is_sparse else g
