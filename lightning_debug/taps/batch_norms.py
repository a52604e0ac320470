"""What batch norms normalise over, what they remember, and which biases they take away."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_debug.observation import BatchNormCall, BatchNorms, NormedBias, Observation
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import dense, norm, sample, stride_for
from lightning_debug.taps.trace import Material, Trace
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import holders

LAYERS = frozenset(
    """linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d""".split()
)
SHAPES = frozenset(
    """view reshape transpose permute flatten unflatten squeeze unsqueeze contiguous movedim
    swapaxes swapdims mT T""".split()
)
CENTRING = frozenset(["batch_norm", "instance_norm", "group_norm"])
CHANNELS = 512
WEIGHTS = 64
VALUES = 256
SLOW = 0.02
TINY = 1e-12


@dataclass
class _Memory:
    """Running statistics, and a few weights before them, as they were when training started."""

    mean: Tensor
    variance: Tensor
    weights: Tensor | None
    far: tuple[Entry, Entry] | None = None

    @property
    def initial(self) -> bool:
        return self.far is not None and all(entry.value == 0.0 for entry in self.far)


@dataclass
class _Call:
    """A call, and the numbers on their way to the host."""

    fields: dict[str, Any]
    memory: _Memory | None
    numbers: dict[str, Entry]

    def observation(self) -> BatchNormCall:
        found: dict[str, Any] = {name: e.value for name, e in self.numbers.items()}
        moved, updates = found.pop("moved", 0.0), found.pop("updates", 0.0)
        initial = self.memory is not None and self.memory.initial
        if "zero" in found:
            initial = (found.pop("zero"), found.pop("one")) == (0.0, 0.0)
        return BatchNormCall(
            **self.fields, initial=initial, moved=moved > 0.0, updates=int(updates), **found
        )


@dataclass
class _Bias:
    """A bias, the weight next to it, and the norm that its layer feeds."""

    bias: Parameter
    weight: Tensor
    place: str
    norm: str = ""
    gradients: tuple[Entry, Entry] | None = None


class BatchNormTap(LookTap, Listener):
    """Hears of batch norms and of the layers that feed them, in training.

    Args:
        trace: Knows which modules run, and where tensors come from.
        model: Asked for its modules, never changed.
    """

    name = "the tap on batch norms"
    kinds = (BatchNorms,)
    names = LAYERS | SHAPES | CENTRING

    def __init__(self, trace: Trace, model: Module) -> None:
        self._trace = trace
        self._model = model
        self._ledger = Ledger()
        self._memories: dict[str, _Memory] = {}
        self._on = False
        self._calls: dict[tuple[str, int], _Call] = {}
        self._biased: dict[int, tuple[weakref.ref[Tensor], _Bias]] = {}
        self._biases: list[_Bias] = []

    def start(self, step: int, epoch: int) -> Iterable[Observation]:
        """Keep the running statistics of all batch norms, a sample of each."""
        with torch.no_grad():
            for path, module in self._model.named_modules():
                mean, variance = _running(module)
                if mean is not None and variance is not None:
                    kept = few_channels(mean).clone(), few_channels(variance).clone()
                    self._memories[path] = _Memory(*kept, self._few_weights(path))
        return ()

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start a look."""
        self._ledger = ledger
        self._on = True
        self._calls, self._biased, self._biases = {}, {}, []
        with torch.no_grad():
            for memory in self._memories.values():
                if memory.far is None:
                    memory.far = _from_zero_and_one(memory.mean, memory.variance, ledger)

    def end(self) -> None:
        """Let go of the tensors."""
        self._on = False
        self._biased = {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of a layer, of another shape of what it gave, or of a norm."""
        name = getattr(func, "__name__", "")
        if not self._on or not isinstance(out, Tensor) or not torch.is_grad_enabled():
            if self._on and name == "batch_norm":
                self._hear(func, args, kwargs)
            return
        if name in LAYERS:
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
            if isinstance(bias, Parameter) and bias.requires_grad and isinstance(weight, Tensor):
                self._follow(out, _Bias(bias, weight, self._trace.place))
        elif name in SHAPES:
            known = self._known(args[0]) if args else None
            if known is not None:
                self._follow(out, known)
        elif name in CENTRING:
            source = args[0] if args else kwargs.get("input")
            known = self._known(source)
            if known is not None and _centres(name, func, args, kwargs, source):
                self._biases.append(_Bias(known.bias, known.weight, known.place, self._trace.place))
            if name == "batch_norm":
                self._hear(func, args, kwargs)

    def before_step(self, optimizer: Optimizer) -> None:
        """Measure the gradients of the biases that a norm takes away."""
        with torch.no_grad():
            for entry in self._biases:
                sides = dense(entry.bias.grad), dense(entry.weight.grad)
                if entry.gradients is None and sides[0] is not None and sides[1] is not None:
                    noted = [self._ledger.note(norm(side)) for side in sides if side is not None]
                    entry.gradients = noted[0], noted[1]

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return the numbers that have arrived."""
        biases = [
            NormedBias(
                place=entry.place,
                norm=entry.norm,
                share=entry.gradients[0].value / max(entry.gradients[1].value, TINY),
            )
            for entry in self._biases
            if entry.gradients is not None and entry.gradients[1].value > 0.0
        ]
        calls = tuple(call.observation() for call in self._calls.values())
        yield BatchNorms(step=step, epoch=epoch, calls=calls, biases=tuple(biases))

    def evaluated(self, ledger: Ledger, given: Sequence[Any], place: str) -> _Call | None:
        """Measure a call in validation, by the running statistics; None for one by the batch's."""
        source, mean, variance, training, momentum = given
        if training or mean is None or variance is None:
            return None
        memory = self._memories.get(place)
        numbers = {
            **dict(zip(("zero", "one"), _from_zero_and_one(mean, variance, ledger), strict=True)),
            **apart(source, mean, variance, ledger),
            **self._weights_moved(place, memory, ledger),
        }
        fields = _fields(source, place, "", training=False, momentum=momentum, tracked=True)
        return _Call(fields | {"frozen": self._untrained(place)}, memory, numbers)

    def _hear(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note a batch norm that uses the statistics of the batch."""
        source, mean, variance, training, momentum = given(func, args, kwargs)
        if not training or not isinstance(source, Tensor):
            return
        if self._trace.marked(source).material is Material.WEIGHTS:
            return  # standardised weights: a way to write it
        frame = self._trace.frames[-1] if self._trace.frames else None
        place = self._trace.place
        own = frame is not None and frame.path == place and _running(frame.module)[0] is not None
        tracked = mean is not None and variance is not None
        line = "" if own else user_line()
        fields = _fields(source, place, line, training=True, momentum=momentum, tracked=tracked)
        key = place, 0 if own else id(mean if mean is not None else line)
        earlier = self._calls.get(key)
        if earlier is not None:
            fields["momentum"] = max(momentum, earlier.fields["momentum"])
            fields["values"] = max(fields["values"], earlier.fields["values"])
            fields["samples"] = max(fields["samples"], earlier.fields["samples"])
        memory = self._memories.get(place) if own else None
        numbers: dict[str, Entry] = {}
        with torch.no_grad():
            if memory is not None and tracked:
                before = earlier is None or earlier.fields["frozen"]
                own_frozen = before and self._untrained(place) and self._calls_frozen(place)
                fields["frozen"] = own_frozen
                fields["halfway"] = own_frozen and self._fed_by_trained(place, source)
                numbers |= self._remembered(frame.module, place, memory, mean, variance)  # type: ignore[union-attr]
                if momentum < SLOW:
                    numbers |= apart(source, mean, variance, self._ledger)
        self._calls[key] = _Call(fields, memory, numbers)

    def _remembered(
        self, module: Module, place: str, memory: _Memory, mean: Tensor, variance: Tensor
    ) -> dict[str, Entry]:
        """Note how far running statistics are from where they were when training started."""
        counted = getattr(module, "num_batches_tracked", None)
        numbers: dict[str, Entry] = {}
        if isinstance(counted, Tensor):
            numbers["updates"] = self._ledger.note(counted)
        if self._calls_frozen(place):
            old, spread = memory.mean, memory.variance.clamp_min(TINY)
            new, wide = few_channels(mean), few_channels(variance).clamp_min(TINY)
            numbers["drift"] = self._ledger.note(_typical((new - old) / spread.sqrt()))
            numbers["stretch"] = self._ledger.note(_typical((wide / spread).log()).exp())
            numbers |= self._weights_moved(place, memory, self._ledger)
        return numbers

    def _calls_frozen(self, place: str) -> bool:
        """Tell whether a batch norm has a weight, which is not trained."""
        weight = getattr(self._model.get_submodule(place), "weight", None)
        return isinstance(weight, Parameter) and not weight.requires_grad

    def _fed_by_trained(self, place: str, source: Tensor) -> bool:
        """Tell whether somebody trains the weights of the layer that feeds a batch norm."""
        origin = self._trace.origin(source)
        known = origin is not None and origin.place and origin.place != place
        before = origin.place if known and origin is not None else self._home(place)
        return _trained(self._model.get_submodule(before))

    def _untrained(self, place: str) -> bool:
        return not _trained(self._model.get_submodule(place))

    def _home(self, place: str) -> str:
        """Return the smallest module around a batch norm that holds weight matrices."""
        for path in holders(place):
            if any(p.ndim > 1 for p in self._model.get_submodule(path).parameters()):
                return path
        return ""

    def _few_weights(self, place: str) -> Tensor | None:
        """Return a few weights around a batch norm that is not trained."""
        if _trained(self._model.get_submodule(place)):
            return None
        home = self._model.get_submodule(self._home(place))
        found = next((p for p in home.parameters() if p.ndim > 1 and not p.requires_grad), None)
        values = dense(found)
        return None if values is None else sample(values, WEIGHTS).clone()

    def _weights_moved(
        self, place: str, memory: _Memory | None, ledger: Ledger
    ) -> dict[str, Entry]:
        now = self._few_weights(place)
        if memory is None or memory.weights is None or now is None:
            return {}
        if now.shape != memory.weights.shape:
            return {}
        return {"moved": ledger.note((now - memory.weights).abs().amax())}

    def _follow(self, tensor: Tensor, bias: _Bias) -> None:
        self._biased[id(tensor)] = weakref.ref(tensor), bias

    def _known(self, tensor: Any) -> _Bias | None:
        found = self._biased.get(id(tensor))
        return found[1] if found and found[0]() is tensor else None


class EvaluatedNormTap(Listener):
    """Hears of batch norms in validation.

    Args:
        trace: Knows which modules run.
        memories: Knows how the batch norms were when training started.
    """

    names = frozenset(["batch_norm"])

    def __init__(self, trace: Trace, memories: BatchNormTap) -> None:
        self._trace = trace
        self._memories = memories
        self._ledger = Ledger()
        self._calls: dict[str, _Call] = {}

    def begin(self) -> None:
        """Start a validation."""
        self._ledger = Ledger()
        self._calls = {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Note a batch norm, once."""
        frame = self._trace.frames[-1] if self._trace.frames else None
        if frame is None or not frame.path or frame.path in self._calls or torch.is_grad_enabled():
            return
        if _running(frame.module)[0] is None:
            return
        with torch.no_grad(), torch._C.DisableTorchFunction():
            call = self._memories.evaluated(self._ledger, given(func, args, kwargs), frame.path)
        if call is not None:
            self._calls[frame.path] = call

    def observation(self, step: int, epoch: int) -> BatchNorms:
        """Return what was seen, once all is over."""
        self._ledger.send()
        self._ledger.settle()
        calls = tuple(call.observation() for call in self._calls.values())
        self._calls = {}
        return BatchNorms(step=step, epoch=epoch, stage="validation", calls=calls)


def given(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Any, Any, bool, float]:
    """Return input, running mean and variance, whether by the batch's statistics, and momentum."""
    plain = func is torch.batch_norm  # weight and bias come first
    order = ("weight", "bias", "running_mean", "running_var") if plain else ()
    order = order or ("running_mean", "running_var", "weight", "bias")
    values = dict(zip(("input", *order, "training", "momentum"), args, strict=False)) | dict(kwargs)
    return (
        values.get("input"),
        values.get("running_mean"),
        values.get("running_var"),
        bool(values.get("training", False)),
        float(values.get("momentum", 0.1) or 0.0),
    )


def few_channels(statistics: Tensor) -> Tensor:
    """Return the statistics of at most ``CHANNELS`` channels."""
    few = statistics.detach()[:: stride_for(statistics.shape[0], CHANNELS)]
    return few.to(torch.float32)


def _running(module: Module) -> tuple[Tensor | None, Tensor | None]:
    """Return the running statistics of a module that has both."""
    mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        lazy = is_lazy(mean) or is_lazy(variance)
        return (None, None) if lazy or mean.numel() == 0 else (mean, variance)
    return None, None


def _fields(
    source: Tensor, place: str, line: str, *, training: bool, momentum: float, tracked: bool
) -> dict[str, Any]:
    channels = source.shape[1] if source.ndim > 1 else 1
    return {
        "place": place or "model",
        "line": line,
        "training": training,
        "values": source.numel() // max(1, channels),
        "samples": source.shape[0],
        "momentum": momentum,
        "tracked": tracked,
    }


def apart(source: Tensor, mean: Tensor, variance: Tensor, ledger: Ledger) -> dict[str, Entry]:
    """Note how far the statistics of a batch, of a sample of it, are from the running ones."""
    rows = source.detach().movedim(1, -1).flatten(0, -2)
    rows = rows[:: stride_for(rows.shape[0], VALUES), :: stride_for(rows.shape[1], CHANNELS)]
    wide, centre = torch.var_mean(rows.to(torch.float32), dim=0, correction=0)
    spread = few_channels(variance).clamp_min(TINY)
    # Behind a rectifier many channels are 0 for a whole batch.
    wide = torch.where(wide > TINY, wide, torch.full_like(wide, math.nan))
    distance = (centre - few_channels(mean)) / torch.maximum(wide, spread).sqrt()
    return {
        "gap": ledger.note(_typical(distance)),
        "scale": ledger.note(_typical((wide / spread).log()).exp()),
    }


def _typical(values: Tensor) -> Tensor:
    """Return the median size, of the channels that have one."""
    return values.abs().nanmedian()


def _centres(
    name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], source: Any
) -> bool:
    """Tell whether a norm subtracts from each channel its own mean."""
    if name == "batch_norm":
        return given(func, args, kwargs)[3]
    if name == "group_norm":
        groups = args[1] if len(args) > 1 else kwargs.get("num_groups")
        return bool(groups == source.shape[1])
    position = 5
    return bool(kwargs.get("use_input_stats", args[position] if len(args) > position else True))


def _trained(module: Module) -> bool:
    # An optimizer that holds a frozen parameter leaves it alone.
    return any(parameter.requires_grad for parameter in module.parameters())


def _from_zero_and_one(mean: Tensor, variance: Tensor, ledger: Ledger) -> tuple[Entry, Entry]:
    """Note how far running statistics are from what they are made with."""
    return ledger.note(mean.abs().amax()), ledger.note((variance - 1.0).abs().amax())
