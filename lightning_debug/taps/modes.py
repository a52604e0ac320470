"""Which modules run in the mode of the other stage, and what that changes."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from lightning_debug.observation import ModePart
from lightning_debug.taps.dropped_norm import DROPOUTS
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.hooks import here
from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Frame, Trace
from lightning_debug.taps.wiring import inside

RECURRENT = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])
ATTENTION = "multi_head_attention_forward"
ATTENTION_P, ATTENTION_FLAG = 10, 13
NORM_FLAG = 5


class ModeTap(Listener):
    """Hears of dropout and batch norms that a module runs in the mode of the other stage.

    What a function was told decides, so dropout without a module counts, and a module without
    effect does not. A leaf without weights counts too, if its ``forward`` reads ``training`` and
    it holds a probability: stochastic depth and its kin return early and call nothing.

    Args:
        trace: Knows which modules run.
        model: Asked for the modes of its modules, never changed.
        mode: The mode to look for: that of the other stage.

    Attributes:
        passes: How often one input has run through an outermost module in this batch, by path.
    """

    names = DROPOUTS | RECURRENT | {"batch_norm", ATTENTION}

    def __init__(self, trace: Trace, model: Module, *, mode: bool) -> None:
        self._trace = trace
        self._model = model
        self._mode = mode
        self._on = False
        self._wrong: dict[str, tuple[str, str]] = {}
        self._right: set[str] = set()
        self._inputs: dict[str, list[weakref.ref[Tensor]]] = {}
        self._sampled: set[str] = set()
        self.passes: Counter[str] = Counter()

    def begin(self, *, wanted: bool) -> None:
        """Start a look."""
        self._on = wanted
        self._wrong, self._right = {}, set()
        self.next_batch()
        self._sampled = set()

    def next_batch(self) -> None:
        """Forget the inputs of a batch."""
        self._inputs = {}
        self.passes.clear()

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Note a function that knows a mode, if it does something in one of them."""
        if not self._on or torch.is_grad_enabled() is self._mode:
            return
        kind, flag = _asked(getattr(func, "__name__", ""), args, kwargs)
        frame = self._trace.frames[-1] if self._trace.frames else Frame(self._model, "")
        if kind and frame.path is not None:
            self._note(frame.path, kind, flag)

    def entered(self, frame: Frame, args: Any) -> None:
        """Note whether an outermost module gets an input for the second time."""
        first = next(tensors_in(args), None)
        if not self._on or first is None or frame.path is None:
            return
        seen = self._inputs.setdefault(frame.path, [])
        before = sum(reference() is first for reference in seen)
        self.passes[frame.path] = max(self.passes[frame.path], before + 1)
        if before and frame.path:
            self._sampled.add(frame.path)
        seen.append(weakref.ref(first))

    def left(self, frame: Frame) -> None:
        """Note a leaf that is random in one of the modes, whatever functions it calls."""
        if not self._on or not frame.leaf or frame.path is None:
            return
        if torch.is_grad_enabled() is not self._mode and _random(frame.module):
            self._note(frame.path, "dropout", frame.module.training)

    def parts(self, trained: set[str]) -> tuple[ModePart, ...]:
        """Return what ran in the wrong mode, by its outermost module.

        Args:
            trained: Names of the parameters that get a gradient.
        """
        groups: dict[str, list[str]] = {}
        for place, (_, top) in self._wrong.items():
            # What runs in both modes is evaluated, attacked or sampled on purpose.
            if place not in self._right:
                groups.setdefault(top, []).append(place)
        return tuple(self._part(top, places, trained) for top, places in groups.items())

    def _note(self, place: str, kind: str, flag: bool) -> None:
        if flag is self._mode and self._module(place).training is self._mode:
            self._wrong.setdefault(place, (kind, self._outermost(place)))
        elif flag is not self._mode:
            self._right.add(place)

    def _module(self, place: str) -> Module:
        return self._model.get_submodule(place)

    def _outermost(self, place: str) -> str:
        top = place
        for parent in _above(place):
            if self._module(parent).training is not self._mode:
                break
            top = parent
        return top

    def _part(self, top: str, places: Sequence[str], trained: set[str]) -> ModePart:
        module = self._module(top)
        sizes = {name: p.numel() for name, p in module.named_parameters() if p.ndim > 1}
        prefix = f"{top}." if top else ""
        shown = prefix.removesuffix(".")
        return ModePart(
            place=shown,
            kind=type(module).__name__,
            dropouts=tuple(p for p in places if self._wrong[p][0] == "dropout"),
            norms=tuple(p for p in places if self._wrong[p][0] == "batch norm"),
            weights=bool(sizes),
            trained=_mostly(prefix, sizes, trained)
            if top
            else any(self._beside(place, trained) for place in places),
            chosen=bool(top) and any(self._decides(path, top) for path in (top, *_above(top))),
            sampled=any(inside(top, path) or inside(path, top) for path in self._sampled),
        )

    def _beside(self, place: str, trained: set[str]) -> bool:
        """Tell whether weights next to a dropout or batch norm are trained."""
        leaf = not any(p.ndim > 1 for p in self._module(place).parameters())
        home = next(_above(place), place) if leaf else place
        prefix = f"{home}." if home else ""
        groups: dict[str, dict[str, int]] = {}
        for name, parameter in self._module(home).named_parameters():
            if parameter.ndim > 1:
                groups.setdefault(name.partition(".")[0], {})[name] = parameter.numel()
        return any(_mostly(prefix, sizes, trained) for sizes in groups.values())

    def _decides(self, path: str, top: str) -> bool:
        """Tell whether a ``train()`` of the user's own leaves a module in its mode."""
        module = self._module(path)
        if type(module).train is Module.train:
            return False
        try:
            shell = _shell(module, {}).train(not self._mode)
            inner = top[len(path) :].removeprefix(".")
            return shell.get_submodule(inner).training is self._mode
        except Exception:
            return True  # it needs more than a shell, and so it does something


class ModuleEars:
    """Follows which modules run, by two global hooks, where no other tap does.

    Args:
        trace: Told which modules run.
        tap: Told of modules that start and end.
        failed: Called with an exception of our own; nothing is heard from then on.
    """

    def __init__(self, trace: Trace, tap: ModeTap, failed: Callable[[Exception], None]) -> None:
        self._trace = trace
        self._tap = tap
        self._failed = failed
        self._handles: list[RemovableHandle] = []

    def open(self) -> None:
        """Put the hooks on."""
        self._handles = [
            register_module_forward_pre_hook(here(self._enter)),
            register_module_forward_hook(here(self._leave)),
        ]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._trace.clear()

    def _enter(self, module: Module, args: Any) -> None:
        try:
            outermost = not any(frame.path for frame in self._trace.frames)
            self._trace.enter(module)
            if outermost:
                self._tap.entered(self._trace.frames[-1], args)
        except Exception as error:
            self._failed(error)

    def _leave(self, module: Module, args: Any, out: Any) -> None:
        try:
            frame = self._trace.leave(module)
            if frame is not None:
                self._tap.left(frame)
        except Exception as error:
            self._failed(error)


def _shell(module: Module, made: dict[int, Module]) -> Module:
    """Return the same modules without their values: what is done to them is done to nothing."""
    if id(module) not in made:
        twin = made[id(module)] = copy.copy(module)
        twin.__dict__ |= {
            "_parameters": {
                name: p if p is None else Parameter(p.detach().to("meta"), p.requires_grad)
                for name, p in module._parameters.items()
            },
            "_buffers": {
                name: b if b is None else b.to("meta") for name, b in module._buffers.items()
            },
            "_modules": {
                name: m if m is None else _shell(m, made) for name, m in module._modules.items()
            },
        }
    return made[id(module)]


def _asked(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, bool]:
    """Return what a function does in one mode only, and the mode that it was told; or nothing."""

    def given(position: int, *keys: str, default: Any) -> Any:
        named = next((kwargs[key] for key in keys if key in kwargs), default)
        return args[position] if len(args) > position else named

    if name in DROPOUTS:
        p, flag = given(1, "p", default=0.5), given(2, "training", "train", default=True)
        return "dropout" if float(p) > 0.0 else "", bool(flag)
    if name == "batch_norm":
        return "batch norm", bool(given(NORM_FLAG, "training", default=False))
    if name == ATTENTION:
        p = given(ATTENTION_P, "dropout_p", default=0.0)
        return "dropout" if p > 0.0 else "", bool(given(ATTENTION_FLAG, "training", default=True))
    if name in RECURRENT:
        return _asked_recurrent(args)
    return "", False


def _asked_recurrent(args: Sequence[Any]) -> tuple[str, bool]:
    """Read ``(..., weights, bias, layers, dropout, training, ...)``; dropout is between layers."""
    at = next((i for i, value in enumerate(args) if isinstance(value, bool)), None)
    if at is None or len(args) < at + 4:
        return "", False
    layers, p, flag = args[at + 1 : at + 4]
    return "dropout" if layers > 1 and p > 0.0 else "", bool(flag)


def _random(module: Module) -> bool:
    """Tell whether a module is random in one mode: it reads the mode and holds a probability."""
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
        return False
    code = getattr(getattr(type(module), "forward", None), "__code__", None)
    if code is None or "training" not in code.co_names or "eps" in code.co_names:
        return False
    return any(
        type(value) is float and 0.0 < value < 1.0 and name in code.co_names
        for name, value in vars(module).items()
    )


def _above(place: str) -> Iterator[str]:
    """Yield the paths of the modules that hold a module, innermost first; the model is empty."""
    while place:
        place = place.rpartition(".")[0]
        yield place


def _mostly(prefix: str, sizes: Mapping[str, int], trained: set[str]) -> bool:
    moving = sum(size for name, size in sizes.items() if prefix + name in trained)
    return bool(sizes) and 2 * moving >= sum(sizes.values())
