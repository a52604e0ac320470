"""Ways through the graph that backward will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from torch.autograd.graph import Node


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
