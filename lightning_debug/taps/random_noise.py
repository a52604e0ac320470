"""Noise that modules add to data in validation, on its way to what is held against a target."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_debug.taps.functions import MIXERS, Listener
from lightning_debug.taps.lines import user_line, within
from lightning_debug.taps.loss_calls import LOSSES
from lightning_debug.taps.random_masks import KEEPS
from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Material, Trace, takes_only_shapes

DRAWS = frozenset("randn randn_like rand rand_like normal normal_ uniform_".split())
ADDS = frozenset("add add_ __add__ __radd__ __iadd__ sub sub_ subtract __sub__ __isub__".split())
ADDS |= {"rsub", "__rsub__"}
MULTIPLIES = frozenset("mul mul_ multiply __mul__ __rmul__ __imul__".split())
DIVIDES = frozenset("div div_ divide true_divide __truediv__ __itruediv__ neg".split())
REPEATS = frozenset("repeat expand expand_as repeat_interleave tile broadcast_to".split())
# Where a prediction meets a target in a step that calls no loss function.
MEETS = frozenset("sub __sub__ rsub __rsub__ subtract eq __eq__".split())
SAMPLERS = "torch.distributions"
MOST_DRAWS = 64
MOST_PASSES = 2  # of one input: for the loss and for a metric, say
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise that enters a prediction.

    Attributes:
        place: The module that draws it.
        function: What draws it.
        line: The line of the user's code that does so.
        size: Its spread, relative to that of what it is added to.
    """

    place: str
    function: str
    line: str
    size: float


@dataclass(slots=True)
class _Draw:
    """Random numbers that were drawn, and what became of them."""

    place: str
    function: str
    line: str
    size: Tensor | None = None
    sampled: bool = False
    reached: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What a tensor is made of.

    Attributes:
        sources: The tensors of the batch, by identity.
        draws: What was added to it, by position.
        noise: What it is, while it is nothing else.
        shifted: Whether noise lies around another number than 0, to be multiplied by.
        repeated: Whether it holds the same values several times, to draw for each.
    """

    sources: frozenset[int] = frozenset()
    draws: frozenset[int] = frozenset()
    noise: int | None = None
    shifted: bool = False
    repeated: bool = False


class RandomNoiseTap(Listener):
    """Follows noise from where a module draws it to a prediction that is held against data.

    Noise of a scale that is learned or comes from the data belongs to a sampler, and so does noise
    that is an input of its own, as that of a generator, or is added to the same values many times.
    Where the target is what the noise was added to, is made of the noise, or is told by a code in
    the input, the noise is the task: to denoise, or to send a message over a noisy channel. What
    the step itself draws is its task as well.

    Args:
        trace: Knows which modules run, and which tensors they made.
        found: Told of each at the end of a batch.
    """

    everything = True

    def __init__(self, trace: Trace, found: Callable[[Noise], None]) -> None:
        self._trace = trace
        self._found = found
        self._known: dict[int, tuple[weakref.ref[Tensor], _Known]] = {}
        self._data: dict[int, Tensor] = {}
        self._draws: list[_Draw] = []
        self._joined: dict[int, tuple[weakref.ref[Tensor], list[_Draw]]] = {}
        self._generates = False

    def begin(self, batch: Any) -> None:
        """Start a batch."""
        self.clear()
        self._data = {id(tensor): tensor for tensor in tensors_in(batch)}
        for key, tensor in self._data.items():
            self._note(tensor, _Known(frozenset([key])))

    def clear(self) -> None:
        """Let go of a batch."""
        self._known, self._data, self._draws, self._joined = {}, {}, [], {}
        self._generates = False

    def batch_end(self) -> None:
        """Tell what noise has reached a comparison with data."""
        draws = [] if self._generates else self._draws
        for draw in draws:
            size = float(draw.size) if draw.reached and draw.size is not None else 0.0
            if size > 0.0 and not draw.sampled:
                self._found(Noise(draw.place, draw.function, draw.line, size))
        self.clear()

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear of a draw, or follow what was made of one."""
        name = getattr(func, "__name__", "")
        if torch.is_grad_enabled() or not self._data:
            return
        if name in DRAWS:
            self._drawn(name, args, kwargs, out)
            return
        inputs = [] if takes_only_shapes(name) else list(tensors_in((args, kwargs)))
        known = [self._of(tensor) for tensor in inputs]
        if not any(known):
            return
        if name in LOSSES or (name in MEETS and not self._trace.frames):
            self._meet(inputs[:2])
        if any(one is not None and one.noise is not None for one in known):
            made = self._mixed(name, inputs, known, args, out)
        else:
            made = _union(known)
            if name in REPEATS and isinstance(out, Tensor) and out.numel() > inputs[0].numel():
                made = _Known(made.sources, made.draws, repeated=True)
        if made is not None:
            for tensor in tensors_in(out, depth=1):
                self._note(tensor, made)

    def _drawn(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Note random numbers, if a module in eval mode draws them for no sampler of torch."""
        modules = (f.module for f in reversed(self._trace.frames) if f.path is not None)
        if all(module.training for module in itertools.islice(modules, 1)):
            return
        parameters = tensors_in((args, kwargs)) if name == "normal" else ()
        if any(self._made(tensor) for tensor in parameters) or within(SAMPLERS):
            return
        if isinstance(out, Tensor) and len(self._draws) < MOST_DRAWS:
            self._draws.append(_Draw(self._trace.place or "model", name, user_line()))
            self._note(out, _Known(noise=len(self._draws) - 1))

    def _mixed(
        self,
        name: str,
        inputs: Sequence[Tensor],
        known: Sequence[_Known | None],
        args: Sequence[Any],
        out: Any,
    ) -> _Known | None:
        """Follow a function that takes noise; None where it is lost from sight."""
        of = next(one for one in known if one is not None and one.noise is not None)
        draw = self._draws[of.noise or 0]
        others = [
            tensor
            for tensor, one in zip(inputs, known, strict=True)
            if one is not of and self._made(tensor)
        ]
        if not others:
            number = any(isinstance(value, (int, float)) and value for value in args)
            if name in ADDS and len(inputs) == 1:
                return _Known(noise=of.noise, shifted=of.shifted or number)
            keeps = name in KEEPS | MULTIPLIES | DIVIDES | ADDS
            return of if keeps else None
        if name in MIXERS or name == "cat":
            self._generates = True
        joins = name in ADDS or (name in MULTIPLIES and of.shifted)
        if joins and len(others) == len(inputs) - 1 == 1 and isinstance(out, Tensor):
            return self._join(draw, of, others[0], out)
        draw.sampled = True
        return None

    def _join(self, draw: _Draw, of: _Known, other: Tensor, out: Tensor) -> _Known | None:
        """Note that noise was added to something that data or layers made."""
        values = self._of(other)
        if values is None or not values.sources or out.shape != other.shape:
            draw.sampled = True
            return None
        before = self._joined.get(id(other))
        draws = before[1] if before is not None and before[0]() is other else []
        draws.append(draw)
        self._joined[id(other)] = weakref.ref(other), draws
        if values.repeated or len(draws) > MOST_PASSES:
            for one in draws:
                one.sampled = True
        if other is not out:
            draw.size = (out.float() - other.float()).std() / (other.float().std() + TINY)
        return _Known(values.sources, values.draws | {of.noise or 0})

    def _meet(self, sides: Sequence[Tensor]) -> None:
        """Look at two tensors that are compared."""
        if len(sides) < 2:
            return
        for prediction, target in (sides, sides[::-1]):
            left, right = self._of(prediction), self._of(target)
            if left is None or right is None or not left.draws or not right.sources:
                continue
            data = self._trace.origin(target) is None and not right.draws
            if self._trace.origin(prediction) is None or not data:
                continue
            if left.sources & right.sources or self._tells(left.sources, target):
                continue
            for position in left.draws:
                self._draws[position].reached = True

    def _tells(self, sources: frozenset[int], target: Tensor) -> bool:
        """Tell whether the input is the target, or a code of it."""
        data = [self._data[key] for key in sources if key in self._data]
        return any(
            (one.shape == target.shape and torch.equal(one.to(target.dtype), target))
            or bool(((one == 0) | (one == 1)).all())
            for one in data
        )

    def _made(self, tensor: Tensor) -> bool:
        """Tell whether data, layers or weights went into a tensor, and not only constants."""
        known = self._of(tensor)
        tracked = known is not None and bool(known.sources or known.draws)
        weights = self._trace.marked(tensor).material is Material.WEIGHTS
        return tracked or weights or self._trace.origin(tensor) is not None

    def _note(self, tensor: Tensor, known: _Known) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), known

    def _of(self, tensor: Tensor) -> _Known | None:
        found = self._known.get(id(tensor))
        return found[1] if found and found[0]() is tensor else None


def _union(known: Sequence[_Known | None]) -> _Known:
    several = [one for one in known if one is not None]
    return _Known(
        frozenset().union(*(one.sources for one in several)),
        frozenset().union(*(one.draws for one in several)),
        repeated=any(one.repeated for one in several),
    )
