"""Where values are dropped, where they go from there, and what is dropped in evaluation."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from lightning_debug.observation import DropoutCall, Dropouts, LostProbability, Observation
from lightning_debug.taps.dropped_norm import DROPOUTS
from lightning_debug.taps.functions import MIXERS, Listener
from lightning_debug.taps.intent import declared
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.loss_calls import LOSSES
from lightning_debug.taps.modes import ATTENTION, ATTENTION_FLAG, ATTENTION_P, RECURRENT
from lightning_debug.taps.random_noise import Noise
from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Frame, Trace, has_parameters
from lightning_debug.taps.transfer import Ledger

SCALED_DOT = "scaled_dot_product_attention"
SCALED_DOT_P = 4
RRELUS = frozenset(["rrelu", "rrelu_"])
ASKED = DROPOUTS | RECURRENT | {ATTENTION, SCALED_DOT}
# Where a prediction meets a target in a loss that is spelled out.
MEETS = frozenset("sub rsub __rsub__ subtract gather mul multiply index_select take".split())
# Chances of being drawn at random, in the code of a forward.
DRAWS = ("drop", "bernoulli", "rand")
MOST = 256


@dataclass(slots=True)
class _Dropped:
    """A dropout in this step, and what became of what it gave."""

    call: DropoutCall
    met: str = ""
    reached: bool = False
    consumed: bool = False


@dataclass(frozen=True, slots=True)
class _Path:
    """A tensor made of what a dropout gave, and of no other tensor of the model."""

    tensor: weakref.ref[Tensor]
    dropped: _Dropped
    met: str = ""


@dataclass
class Probabilities:
    """The chances that modules of a model hold as plain numbers and draw with.

    Args:
        model: Asked, never changed.
    """

    model: Module
    lost: dict[tuple[str, str], float] = field(default_factory=dict)
    _before: dict[tuple[str, str], float] = field(default_factory=dict)

    def begin(self) -> None:
        """Validation is about to start."""
        self._before = dict(_chances(self.model))

    def end(self) -> None:
        """It has run a batch: note what has become 0 meanwhile."""
        for (path, name), before in self._before.items():
            if _value(self.model, path, name) == 0.0:
                self.lost.setdefault((path, name), before)

    def still_lost(self) -> tuple[LostProbability, ...]:
        """Return what validation has set to 0 and nobody has set back."""
        return tuple(
            LostProbability(place=path, attribute=name, before=before)
            for (path, name), before in self.lost.items()
            if _value(self.model, path, name) == 0.0
        )


class DropoutTap(LookTap, Listener):
    """Follows what dropouts give, until a layer takes it or it meets the target.

    Args:
        trace: Knows which modules run, and where tensors come from.
        probabilities: Knows what validation has changed.
    """

    name = "the tap on dropouts"
    kinds = (Dropouts,)
    everything = True

    def __init__(self, trace: Trace, probabilities: Probabilities) -> None:
        self._trace = trace
        self._probabilities = probabilities
        self._on = False
        self._lost: tuple[LostProbability, ...] = ()
        self._calls: list[_Dropped] = []
        self._paths: dict[int, _Path] = {}
        self._units: dict[str, tuple[int, bool]] = {}

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Start a look."""
        self._on = True
        self._calls, self._paths, self._units = [], {}, {}
        self._lost = self._probabilities.still_lost()

    def end(self) -> None:
        """Let go of the tensors."""
        self._on = False
        self._paths = {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of a dropout, or follow what one gave."""
        if not self._on or not torch.is_grad_enabled():
            return
        name = getattr(func, "__name__", "")
        if name in MIXERS and isinstance(out, Tensor) and out.ndim == 3:
            self._units[self._trace.place] = out.shape[-1], name == "embedding"
        if name in ASKED and len(self._calls) < MOST:
            p, flag = asked(name, args, kwargs)
            source = next(tensors_in((args, kwargs)), None)
            if flag and p > 0.0 and source is not None:
                self._drop(name, p, source, out)
                return
        if self._paths:
            self._step(name, args, kwargs, out)

    def observations(self, step: int, epoch: int) -> Iterable[Observation]:
        """Return the dropouts of this look."""
        calls = tuple(
            replace(d.call, loss=d.met if d.reached and not d.consumed else "") for d in self._calls
        )
        yield Dropouts(step=step, epoch=epoch, calls=calls, lost=self._lost)

    def _drop(self, name: str, p: float, source: Tensor, out: Any) -> None:
        origin = self._trace.origin(source)
        made = "" if origin is None else origin.place or "model"
        call = DropoutCall(
            place=_site(self._trace),
            function=name,
            p=p,
            line=user_line(),
            source=made,
            drops=self._drops(name, source, made),
            shape=tuple(source.shape),
        )
        dropped = _Dropped(call)
        self._calls.append(dropped)
        earlier = self._path(source)
        if made and name in DROPOUTS and isinstance(out, Tensor) and not (earlier and earlier.met):
            self._paths[id(out)] = _Path(weakref.ref(out), dropped)

    def _drops(self, name: str, source: Tensor, made: str) -> str:
        """Tell what a dropout of channels drops of an input that was laid out otherwise."""
        if made and source.ndim == 2 and name in ("dropout2d", "dropout3d"):
            return "values"
        if not made or (name, source.ndim) not in {
            ("dropout1d", 2),
            ("dropout3d", 4),
            ("dropout1d", 3),
            ("dropout2d", 3),
        }:
            return ""
        if source.ndim != 3:
            return "samples"
        units, embedded = self._units.get(made, (0, False))
        last = source.shape[2] == units != source.shape[1]
        words = embedded and name == "dropout1d"  # a known way to leave out words
        return "steps" if last and not words else ""

    def _step(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Follow a function that takes something that a dropout gave."""
        inputs = list(tensors_in((args, kwargs)))
        paths = [path for tensor in inputs if (path := self._path(tensor)) is not None]
        if not paths:
            return
        if name in MIXERS or any(isinstance(tensor, Parameter) for tensor in inputs):
            for path in paths:
                path.dropped.consumed = True
            return
        if any(path.dropped is not paths[0].dropped for path in paths):
            return  # a score of two towers
        others = [tensor for tensor in inputs if self._path(tensor) is None]
        if any(self._trace.origin(tensor) is not None for tensor in others):
            return
        met = paths[0].met
        data = [tensor for tensor in others if tensor.numel() > 1 and tensor.dtype != torch.bool]
        if data and not met and (name in LOSSES or name in MEETS):
            met = name
        for tensor in tensors_in(out, depth=1):
            if met and tensor.numel() == 1 and tensor.requires_grad:
                paths[0].dropped.met, paths[0].dropped.reached = met, True
            else:
                self._paths[id(tensor)] = replace(paths[0], tensor=weakref.ref(tensor), met=met)

    def _path(self, tensor: Tensor) -> _Path | None:
        found = self._paths.get(id(tensor))
        return found if found and found.tensor() is tensor else None


class EvaluatedDropoutTap(Listener):
    """Hears of dropouts that are on in validation, though the module that runs them is not.

    Args:
        trace: Knows which modules run.
        model: Asked for its modules, never changed.
        passes: Tells how often one input has run through a module, by its path.
    """

    names = ASKED | RRELUS

    def __init__(
        self, trace: Trace, model: Module, passes: Callable[[], Mapping[str, int]]
    ) -> None:
        self._trace = trace
        self._model = model
        self._passes = passes
        self._calls: dict[tuple[str, str], DropoutCall] = {}

    def begin(self) -> None:
        """Start a validation."""
        self._calls = {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Note a dropout that is on."""
        if torch.is_grad_enabled() or len(self._calls) >= MOST:
            return
        name = getattr(func, "__name__", "")
        p, flag = asked(name, args, kwargs)
        if not flag or p <= 0.0:
            return
        source = next(tensors_in((args, kwargs)), None)
        corrupts = source is not None and self._trace.origin(source) is None
        if corrupts and not self._trace.frames:
            return  # data that the step corrupts itself, as a task
        self.found(p, name, flagged=name in DROPOUTS)

    def found(self, p: float, name: str = "a random mask", *, flagged: bool = False) -> None:
        """Note a dropout that is on, if the module that runs it is in eval mode.

        Args:
            p: The probability to drop.
            name: What does so.
            flagged: Whether it is a function that takes a flag, third.
        """
        frame = self._trace.frames[-1] if self._trace.frames else Frame(self._model, "")
        if self._known(frame).training:
            return
        dedicated = frame.leaf and not has_parameters(frame.module)
        call = DropoutCall(
            place=_site(self._trace),
            function=name,
            p=p,
            line=user_line(),
            declared=declared(flagged=flagged, dedicated=dedicated),
            outside=frame.path is None,
        )
        self._calls.setdefault((call.place, call.line), call)

    def noisy(self, noise: Noise) -> None:
        """Note noise that a module in eval mode has added on the way to a prediction."""
        call = DropoutCall(
            place=noise.place, function=noise.function, p=0.0, line=noise.line, noise=noise.size
        )
        self._calls.setdefault((call.place, call.line), call)

    def batch_end(self) -> None:
        """Note how often an input has run through the model, before that is forgotten."""
        most = max(self._passes().values(), default=1)
        for key, call in self._calls.items():
            self._calls[key] = replace(call, passes=max(call.passes, most))

    def observation(self, step: int, epoch: int) -> Dropouts:
        """Return what was seen."""
        calls, self._calls = tuple(self._calls.values()), {}
        return Dropouts(step=step, epoch=epoch, stage="validation", calls=calls)

    def _known(self, frame: Frame) -> Module:
        """Return the innermost running module that the model knows."""
        known = (f.module for f in reversed(self._trace.frames) if f.path is not None)
        return next(known, self._model) if frame.path is None else frame.module


def asked(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float, bool]:
    """Return the probability that a function drops with, and whether it was told to.

    Of a ReLU with random slopes, it is their span.
    """

    def given(position: int, *keys: str, default: Any) -> Any:
        named = next((kwargs[key] for key in keys if key in kwargs), default)
        return args[position] if len(args) > position else named

    if name in DROPOUTS:
        p, flag = given(1, "p", default=0.5), given(2, "training", "train", default=True)
        return float(p), bool(flag)
    if name in RRELUS:
        span = given(2, "upper", default=1 / 3) - given(1, "lower", default=1 / 8)
        return float(span), bool(given(3, "training", default=False))
    if name == SCALED_DOT:
        return float(given(SCALED_DOT_P, "dropout_p", default=0.0)), True
    if name == ATTENTION:
        p = given(ATTENTION_P, "dropout_p", default=0.0)
        return float(p), bool(given(ATTENTION_FLAG, "training", default=True))
    if name in RECURRENT:
        # (..., weights, bias, layers, dropout, training, ...); dropout is between layers.
        at = next((i for i, value in enumerate(args) if isinstance(value, bool)), None)
        if at is not None and len(args) >= at + 4 and args[at + 1] > 1:
            return float(args[at + 2]), bool(args[at + 3])
    return 0.0, False


def _site(trace: Trace) -> str:
    return trace.place or "model"


def _chances(model: Module) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield the numbers between 0 and 1 that modules draw with, by module path and name."""
    for path, module in model.named_modules():
        code = getattr(getattr(type(module), "forward", None), "__code__", None)
        if code is None or not any(d in n.lower() for n in code.co_names for d in DRAWS):
            continue
        for name, value in vars(module).items():
            if type(value) is float and 0.0 < value < 1.0 and name in code.co_names:
                yield (path, name), value


def _value(model: Module, path: str, name: str) -> Any:
    try:
        return vars(model.get_submodule(path)).get(name)
    except AttributeError:
        return None  # taken out meanwhile
