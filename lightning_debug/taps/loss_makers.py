"""The function that made a tensor last, read off the graph that autograd keeps anyway."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

# Functions that give a tensor another shape or dtype, or some of its elements.
SHAPE_ONLY = frozenset(
    """View UnsafeView ReshapeAlias Reshape Squeeze Unsqueeze Permute Transpose T MT Expand Select
    Slice Index IndexSelect Gather Take MaskedSelect Narrow Split SplitWithSizes Chunk Unbind
    Unfold ToCopy Clone Alias AsStrided Repeat Flip Roll Contiguous Copy Diagonal""".split()
)
CLAMPS = frozenset(["Clamp", "ClampMin", "ClampMax"])
JOINS = frozenset(["Cat", "Stack"])
MAKERS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Softplus": "softplus",
    "Exp": "exp",
}
DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Maker:
    """The last function that gave a tensor its values.

    Attributes:
        name: ``"softmax"``, ``"sigmoid"``, ``"relu"`` ...; empty if it is none of those.
        width: Units that a softmax shares its probability among; 0 for others.
        whole: Whether the tensor holds all that the function gave.
    """

    name: str = ""
    width: int = 0
    whole: bool = True


def maker(tensor: Tensor) -> Maker:
    """Return the function that made a tensor, through views, casts and clamps."""
    node = tensor.grad_fn
    for _ in range(DEEPEST):
        if node is None:
            break
        kind = _kind(node)
        if kind in MAKERS:
            return _made(MAKERS[kind], node, tensor)
        if kind == "Mul" and _is_sigmoid(_first(node)) and _is_one(node):
            return Maker("sigmoid")  # 1 / (1 + exp(-x))
        if kind == "Reciprocal" and _is_sigmoid(node):
            return Maker("sigmoid")
        if kind in JOINS:
            parts = {_kind(parent) for parent, _ in node.next_functions if parent is not None}
            if len(parts) != 1:
                break
        elif kind not in SHAPE_ONLY and kind not in CLAMPS:
            break
        node = _first(node)
    return Maker()


def _kind(node: Node) -> str:
    """Return ``"Softmax"`` for ``SoftmaxBackward0``."""
    return node.name().partition("Backward")[0]


def _first(node: Node | None) -> Node | None:
    return node.next_functions[0][0] if node is not None and node.next_functions else None


def _made(name: str, node: Node, tensor: Tensor) -> Maker:
    axis = getattr(node, "_saved_dim", None)
    metadata = getattr(node, "_input_metadata", ())
    if axis is None or not metadata:
        return Maker(name)
    shape = tuple(metadata[0].shape)
    axis = axis - 2**64 if axis >= 2**63 else axis  # negative axes are saved unsigned
    numel = 1
    for size in shape:
        numel *= int(size)
    return Maker(name, int(shape[axis]) if shape else 1, numel == tensor.numel())


def _is_sigmoid(node: Node | None) -> bool:
    """Tell whether a node is 1 / (1 + exp(...))."""
    plus = _first(node)
    power = _first(plus)
    names = [_kind(n) if n is not None else "" for n in (node, plus, power)]
    return names == ["Reciprocal", "Add", "Exp"]


def _is_one(node: Node) -> bool:
    """Tell whether a product has the constant factor 1; a number lies on the host."""
    factor = getattr(node, "_saved_other", None)
    return isinstance(factor, Tensor) and factor.device.type == "cpu" and bool((factor == 1).all())
