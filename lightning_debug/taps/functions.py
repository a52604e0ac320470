"""Sees every torch function that the training step calls, and tells the taps that ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Origin, Trace, takes_only_shapes

MIXERS = frozenset(
    """linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm einsum embedding embedding_bag lstm gru
    rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention
    multi_head_attention_forward""".split()
)
CHANNEL_FIRST = frozenset(
    """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm
    instance_norm group_norm""".split()
)
TAMERS = frozenset(
    "layer_norm group_norm instance_norm batch_norm rms_norm normalize sin cos".split()
)
# Told of the function, all its inputs, the parameters among them, and its outputs.
Handed = Callable[[str, Sequence[Tensor], Sequence[Parameter], Sequence[Tensor]], None]


class Listener:
    """Hears of the functions named in ``names``, or of ``everything`` that gives tensors."""

    names: frozenset[str] = frozenset()
    everything = False

    def before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Hear of a call before it runs: in-place functions overwrite their input."""

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of a call and its result."""


class FunctionTap(TorchFunctionMode):
    """Follows tensors through the functions of the training step.

    It is on the stack of function modes from the start to the end of the batch, where no user
    code is in between, and listens only while the forward pass runs. While gradients are computed
    and used it steps aside where it can: an optimizer calls thousands of functions.

    Args:
        trace: Kept up to date with the origin of every tensor.
        listeners: Told about the functions that they ask for.
        failed: Called with an exception of our own; the tap is deaf from then on.
    """

    def __init__(
        self, trace: Trace, listeners: Sequence[Listener], failed: Callable[[Exception], None]
    ) -> None:
        super().__init__()
        self.listening = False
        self.handed: Handed | None = None
        self._entered = False
        self._height: int | None = None
        self._trace = trace
        self._failed = failed
        self._everything = [listener for listener in listeners if listener.everything]
        self._by_name: dict[str, list[Listener]] = {}
        for listener in listeners:
            for name in listener.names:
                self._by_name.setdefault(name, []).append(listener)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, unchanged, and listen."""
        kwargs = kwargs or {}
        if not self.listening:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        ears = self._by_name.get(name, ())
        for listener in ears:
            with self._contained():
                listener.before(name, args, kwargs)
        out = func(*args, **kwargs)
        # A shape is a tuple, too; nothing is asked for as often.
        tensors = isinstance(out, (Tensor, tuple, list)) and not isinstance(out, torch.Size)
        if tensors or ears:
            with self._contained():
                if tensors:
                    self._follow(name, args, kwargs, out)
                for listener in (*ears, *(self._everything if tensors else ())):
                    listener.after(func, args, kwargs, out)
        return out

    def open(self) -> None:
        """Start to listen, at the start of a batch."""
        self._enter()
        self.listening = True

    def pause(self) -> None:
        """Stop listening; step aside unless a mode of the user's lies on top."""
        self.listening = False
        if _in_backward():
            return
        if self._entered and _get_current_function_mode() is self:  # type: ignore[no-untyped-call]
            self._leave()
            self._height = _len_torch_function_stack()

    def resume(self) -> None:
        """Listen again, from the same place in the stack."""
        if _in_backward():
            self.listening = self._entered
            return
        if self._height is not None and self._height == _len_torch_function_stack():
            self._enter()
        self._height = None
        self.listening = self._entered

    def close(self) -> None:
        """Listen no more, at the end of a batch."""
        self.listening = False
        self._height = None
        if self._entered:
            self._leave()

    def _enter(self) -> None:
        self.__enter__()  # type: ignore[no-untyped-call]  # torch's
        self._entered = True

    def _leave(self) -> None:
        self._entered = False
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # torch's

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Run our own functions unheard, and without the cost of being asked."""
        before, self.listening = self.listening, False
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.listening = before

    @contextmanager
    def _contained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.listening = False
            self._failed(error)

    def _follow(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        outputs = list(tensors_in(out, depth=1))
        if not outputs:
            return  # a shape or a device
        inputs = [] if takes_only_shapes(name) else list(tensors_in((args, kwargs)))
        self._trace.mark(name, inputs, outputs)
        self._trace.read.update(map(id, inputs))
        held = (self._trace.own(t) for t in inputs if isinstance(t, Parameter))
        weights = [own for own in held if isinstance(own, Parameter)]
        self._trace.used.update(map(id, weights))
        if weights and self.handed is not None:
            self.handed(name, inputs, weights, outputs)
        self._trace.scaled(name, weights)
        known = self._trace.known(inputs)
        if name in TAMERS:
            self._trace.tamed.update(origin.place for origin in known)
        if name not in MIXERS and not weights and any(t.requires_grad for t in outputs):
            fixed = (t for t in inputs if not t.requires_grad)
            self._trace.targets.update(origin.place for origin in self._trace.known(fixed))
        if name in MIXERS or (name not in CHANNEL_FIRST and any(w.ndim > 1 for w in weights)):
            origin = Origin(self._trace.place, 1 if name in CHANNEL_FIRST else -1)
        elif known:
            pending = {position for o in known for position in o.pending}
            axis = 1 if name in CHANNEL_FIRST else known[0].axis
            origin = Origin(known[0].place, axis, tuple(sorted(pending)))
        else:
            return
        for tensor in outputs:
            self._trace.note(tensor, origin)


def _in_backward() -> bool:
    """Tell whether gradients are being computed: the stack of modes is then put back afterwards."""
    return bool(torch._C._current_graph_task_id() != -1)
