"""Ways through the graph that backward will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node

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
