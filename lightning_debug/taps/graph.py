"""Ways through the graph that backward will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn import Parameter

MOST_NODES = 20_000


def nearby(start: Node, depth: int) -> Iterator[Node]:
    """Yield the nodes that lie at most ``depth`` steps behind a node, each once, nearest first."""
    seen = {start}
    todo = deque([(start, 0)])
    while todo:
        node, distance = todo.popleft()
        yield node
        if distance == depth:
            continue
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                todo.append((after, distance + 1))


def leaves(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the leaves that a tensor was made of, itself if it is one; bounded."""
    if tensor.grad_fn is None:
        yield tensor
        return
    seen = {tensor.grad_fn}
    todo = [tensor.grad_fn]
    while todo and len(seen) < MOST_NODES:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            yield leaf
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                todo.append(after)


def only_inputs(start: Node) -> list[Tensor]:
    """Return the leaves behind a node, if no parameter is among them; bounded.

    A function of the user's own, such as a checkpoint, may hide parameters: then there are none.
    """
    found: list[Tensor] = []
    seen, todo = {start}, [start]
    while todo:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        hides = issubclass(type(node), BackwardCFunction) or "Cpp" in node.name()
        if hides or isinstance(leaf, Parameter) or len(seen) > MOST_NODES:
            return []
        if isinstance(leaf, Tensor):
            found.append(leaf)
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        todo += new
    return found


SUMMARIES = ("Mean", "Sum")
SIZES = ("Pow", "Abs", "LinalgVectorNorm", "Norm")
SHAPES = ("View", "Unsafe", "Reshape", "Clone", "ToCopy", "Squeeze", "Unsqueeze")
# What a layer with a bias or a non-linearity gives. No bare product: that is what a gradient is.
LAYERS = (
    "Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Softplus", "Tanh", "Sigmoid", "Addmm",
    "Convolution", "MkldnnRnnLayer", "NativeBatchNorm", "NativeLayerNorm",
)  # fmt: skip


def is_size_of_activations(node: Node | None) -> bool:
    """Tell whether a number is a mean or sum of ``|h| ** p`` over what one layer gave."""
    for _ in range(4):
        if node is None or not node.name().startswith(SUMMARIES):
            break
        node = node.next_functions[0][0]
    if node is None:
        return False
    before = [after for after, _ in node.next_functions if after is not None]
    squared = node.name().startswith("Mul") and len(before) == 2 and before[0] is before[1]
    if not squared and not (node.name().startswith(SIZES) and len(before) == 1):
        return False
    layer = before[0]
    while layer.name().startswith(SHAPES) and layer.next_functions[0][0] is not None:
        layer = layer.next_functions[0][0]
    return layer.name().startswith(LAYERS)
