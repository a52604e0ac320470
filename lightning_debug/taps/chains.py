"""Weight layers that feed each other with nothing non-linear in between."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from lightning_debug.observation import LinearPair, owner
from lightning_debug.taps.dropped_norm import DROPOUTS
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.statistics import tensors_in
from lightning_debug.taps.trace import Frame, Material, Trace
from lightning_debug.taps.wiring import holders

CONVOLUTIONS = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
MATRICES = frozenset("linear matmul __matmul__ mm addmm einsum".split())
SHAPERS = frozenset(
    """reshape view view_as flatten unflatten permute transpose movedim moveaxis swapaxes swapdims
    t squeeze unsqueeze contiguous clone to type type_as float half double bfloat16 __get__
    pad""".split()
)
AFFINE = frozenset(
    """add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ rsub __isub__ mul mul_ __mul__
    __rmul__ __imul__ multiply div div_ __truediv__ true_divide __itruediv__ neg""".split()
)
SPLITS = frozenset(
    "chunk split split_with_sizes tensor_split unbind __getitem__ narrow select".split()
)
PRODUCTS = frozenset(
    """matmul __matmul__ mm bmm baddbmm einsum scaled_dot_product_attention""".split()
)
GATES = frozenset("mul __mul__ multiply mul_ __imul__".split())
MIXTURES = frozenset("softmax gumbel_softmax one_hot".split())
MOST_LAYERS = 4_000


@dataclass(eq=False, slots=True)
class _Layer:
    """One call of a weight layer, and what became of its output."""

    label: str
    place: str
    kind: str
    inner: int
    outer: int
    size: int
    kernel: tuple[int, ...]
    odd: bool
    mixed: bool
    line: str = ""
    elsewhere: bool = False
    multiplied: bool = False


@dataclass(eq=False, slots=True)
class _Way:
    """A tensor on the way from a weight layer."""

    tensor: weakref.ref[Tensor]
    layer: _Layer
    through: tuple[str, ...] = ()
    whole: bool = True
    taken: bool = False


@dataclass(eq=False, slots=True)
class _Pair:
    first: _Layer
    second: _Layer
    through: tuple[str, ...] = field(default=())


class ChainTap(Listener):
    """Follows the output of each weight layer through what does not bend it.

    Tensors are followed, not modules: an activation that is a function counts, and one that is
    registered but never run does not.
    """

    everything = True

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._on = False
        self._names: dict[int, str] = {}
        self._model = Module()
        self._ways: dict[int, _Way] = {}
        self._mixed: dict[int, weakref.ref[Tensor]] = {}
        self._layers: list[_Layer] = []
        self._pairs: list[_Pair] = []

    def begin(self, model: Module, parameters: Mapping[str, Parameter], *, wanted: bool) -> None:
        """Start a look at a model with these parameters."""
        self._on = wanted
        self._ways, self._mixed, self._layers, self._pairs = {}, {}, [], []
        if wanted:
            self._names = {id(parameter): name for name, parameter in parameters.items()}
            self._model = model

    def end(self) -> None:
        """Let go of the tensors."""
        self._ways, self._mixed = {}, {}

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Follow a call."""
        if not self._on or len(self._layers) >= MOST_LAYERS:
            return
        outputs = list(tensors_in(out, depth=1))
        if not outputs or not torch.is_grad_enabled():
            return
        name = getattr(func, "__name__", "")
        inputs = list(tensors_in((args, kwargs)))
        if self._layer(name, args, kwargs, inputs, outputs[0]):
            return
        others = [t for t in inputs if self._trace.marked(t).material is None]
        ways = [way for t in inputs if (way := self._way(t)) is not None]
        keeps = name in SHAPERS or name in DROPOUTS or name == "batch_norm"
        keeps = keeps or (name in AFFINE and len(others) == 1)
        mixes = name in MIXTURES or (name in PRODUCTS and len(others) > 1)
        if mixes or (keeps and any(self._is_mixed(t) for t in inputs)):
            self._mixed.update((id(t), weakref.ref(t)) for t in outputs)
        for way in ways:
            if keeps and way.whole and outputs[0].requires_grad and len(outputs) == 1:
                self._pass(way, name, outputs[0])
            else:
                way.layer.elsewhere = True
                products = name in PRODUCTS or name in GATES
                # A gate multiplies two halves of what it is given.
                way.layer.multiplied |= name == "glu" or (products and len(others) > 1)
                if keeps or name in SPLITS:
                    for tensor in outputs:
                        self._note(tensor, _Way(weakref.ref(tensor), way.layer, whole=False))

    def left(self, frame: Frame, out: Any) -> None:
        """Hear what a module gave: one of several outputs may be used anywhere."""
        if not self._on or frame.leaf or isinstance(out, Tensor):
            return
        outputs = list(tensors_in(out))
        for tensor in outputs if len(outputs) > 1 else ():
            way = self._way(tensor)
            if way is not None:
                way.layer.elsewhere = True

    def observations(self) -> tuple[LinearPair, ...]:
        """Return the pairs of this look, each once."""
        pairs = {
            (pair.first.label, pair.second.label): pair
            for pair in self._pairs
            if not pair.first.elsewhere and not pair.second.multiplied and _foldable(pair)
        }
        counts = Counter(path for layer in self._layers for path in holders(layer.place))
        return tuple(
            LinearPair(
                first=first,
                second=second,
                through=pair.through,
                inner=pair.first.inner if _same_axis(pair) else pair.first.size,
                middle=pair.second.inner,
                outer=pair.second.outer,
                seam=self._seam(pair, counts),
                line=pair.second.line,
            )
            for (first, second), pair in pairs.items()
            if first != second
        )

    def bent(self) -> tuple[str, ...]:
        """Return the layers whose output went anywhere else, in one call of this look at least."""
        straight = {pair.first for pair in self._pairs if not pair.first.elsewhere}
        return tuple(dict.fromkeys(x.label for x in self._layers if x not in straight))

    def _layer(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        inputs: Sequence[Tensor],
        out: Tensor,
    ) -> bool:
        """Take in the call of a trained weight layer; tell whether it was one."""
        if name not in MATRICES and name not in CONVOLUTIONS:
            return False
        weights = [t for t in inputs if t.ndim > 1 and self._of_weights(t)]
        data = [t for t in inputs if not self._of_weights(t)]
        if len(weights) != 1 or len(data) != 1 or not weights[0].requires_grad:
            return False
        weight, values = weights[0], data[0]
        convolves = name in CONVOLUTIONS
        if values.ndim < 2 or (weight.ndim != 2 and not convolves):
            return False
        axis = -1
        if convolves:
            axis = 1 - weight.ndim  # of the channels, with a batch axis and without
        elif name in ("matmul", "__matmul__", "mm") and inputs[0] is weight:
            axis = -2
        inner, outer = values.shape[axis], out.shape[axis]
        kernel = tuple(weight.shape[2:]) if convolves else ()
        layer = _Layer(
            label=self._label(weight, name),
            place=self._trace.place,
            kind="conv" if convolves else "linear",
            inner=inner,
            outer=outer,
            size=values.numel() // max(1, values.shape[0]),
            kernel=kernel,
            odd=convolves and _resamples_or_groups(name, weight, inner, outer, args, kwargs),
            mixed=self._is_mixed(values),
        )
        self._layers.append(layer)
        way = self._way(values)
        if way is not None:
            if way.taken or not way.whole:
                way.layer.elsewhere = True
            way.taken = True
            layer.line = user_line()
            self._pairs.append(_Pair(way.layer, layer, way.through))
        self._note(out, _Way(weakref.ref(out), layer))
        return True

    def _pass(self, way: _Way, name: str, out: Tensor) -> None:
        if way.taken:
            way.layer.elsewhere = True
        way.taken = True
        telling = name in DROPOUTS or name == "batch_norm"
        through = (*way.through, name) if telling else way.through
        self._note(out, _Way(weakref.ref(out), way.layer, through))

    def _note(self, tensor: Tensor, way: _Way) -> None:
        self._ways[id(tensor)] = way

    def _way(self, tensor: Tensor) -> _Way | None:
        found = self._ways.get(id(tensor))
        return found if found is not None and found.tensor() is tensor else None

    def _is_mixed(self, tensor: Tensor) -> bool:
        found = self._mixed.get(id(tensor))
        return found is not None and found() is tensor

    def _of_weights(self, tensor: Tensor) -> bool:
        return self._trace.marked(tensor).material is Material.WEIGHTS

    def _label(self, weight: Tensor, name: str) -> str:
        own = isinstance(weight, Parameter)
        known = self._names.get(id(self._trace.own(weight)), "") if own else ""
        if known:
            return (known.endswith(".weight") and owner(known)) or known
        return self._trace.place or f"training_step > {name}"

    def _seam(self, pair: _Pair, counts: Mapping[str, int]) -> bool:
        """Tell whether a part with several weight layers ends with the first, or is led in by it.

        A projection that keeps the width leads in: a change of basis, a step of linear dynamics.
        """
        one, other = _parts(pair.first.place, pair.second.place)
        if not one or not other:
            return False
        first = pair.first
        leads = first.inner == first.outer and set(first.kernel) <= {1} and counts[other] > 1
        several = counts[one] > 1 or leads
        kinds = [type(self._model.get_submodule(path)) for path in (one, other)]
        blocks = kinds[0] is kinds[1] and not kinds[0].__module__.startswith("torch.")
        return several and not blocks


def _parts(first: str, second: str) -> tuple[str, str]:
    """Return the largest parts of the model that hold one of two modules and not the other."""
    ours, theirs = first.split("."), second.split(".")
    for depth, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if one != other:
            return ".".join(ours[:depth]), ".".join(theirs[:depth])
    return "", ""


def _resamples_or_groups(
    name: str,
    weight: Tensor,
    inner: int,
    outer: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bool:
    """Tell whether a convolution cuts patches that do not overlap, or works in groups."""
    grouped = weight.shape[1] != (outer if "transpose" in name else inner)
    stride = kwargs.get("stride", args[3] if len(args) > 3 else 1)
    strides = tuple(_numbers(stride, weight.ndim - 2))
    kernel = tuple(weight.shape[2:])
    return grouped or (strides == kernel and max(kernel) > 1)


def _numbers(value: Any, count: int) -> Iterator[int]:
    yield from (
        value if isinstance(value, (tuple, list)) and len(value) == count else [value] * count
    )


def _same_axis(pair: _Pair) -> bool:
    return pair.second.inner == pair.first.outer


def _foldable(pair: _Pair) -> bool:
    """Tell whether one layer in place of the two would be the obvious thing.

    Patches, groups and separable kernels save work; a map that is made of a vector, or of a
    mixture of values (attention, soft lookups), has a weight layer of its own by custom.
    """
    first, second = pair.first, pair.second
    if first.odd or second.odd or first.mixed or (first.kind, second.kind) == ("linear", "conv"):
        return False
    if first.kind == second.kind and not _same_axis(pair):
        return False
    ours = {axis for axis, size in enumerate(first.kernel) if size > 1}
    theirs = {axis for axis, size in enumerate(second.kernel) if size > 1}
    return not (ours and theirs and not ours & theirs)
