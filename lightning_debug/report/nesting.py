"""Which boxes of the network lie in which."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from lightning_debug.picture import Node

TOP = -1
MOST_BOXES = 60
MOST_CHILDREN = 40
MOST_DEPTH = 16
Path = tuple[str, ...]


@dataclass(kw_only=True)
class Group:
    """A box around others: a module that holds modules, or a stretch of a long list of boxes.

    Attributes:
        name: Path of the module; empty for a stretch.
        label: Last part of the path; of a stretch, its first and its last box.
        parent: Number of the group that it lies in, or ``TOP``.
        inside: Number of nodes in it, however deep.
    """

    name: str
    label: str
    parent: int
    inside: int = 0


class Nesting:
    """The nodes of a network in groups, by their paths.

    Args:
        nodes: In order of execution.
        edges: Names of the two ends of each.

    Attributes:
        groups: All groups.
        parents: For each node the number of its group, or ``TOP``.
        labels: For each node the last part of its path.
    """

    def __init__(self, nodes: Sequence[Node], edges: Iterable[tuple[str, str]] = ()) -> None:
        self.groups: list[Group] = []
        self.parents: list[int] = []
        self.labels: list[str] = []
        # In order of execution: a node by its number, a group by the complement of its number.
        self._children: dict[int, list[int]] = {TOP: []}
        self._numbers: dict[Path, int] = {(): TOP}
        modules = {node.name for node in nodes if node.role == "module"}
        roots = {name.split(".")[0] for name in modules}
        places = [_place(node, modules) for node in nodes]
        _relieve(places, nodes, edges)
        for index, (path, label) in enumerate(places):
            parent = self._group(path) if path and path[0] in roots else TOP
            self.labels.append(label)
            self.parents.append(parent)
            self._children[parent].append(index)
        for group in [TOP, *range(len(self.groups))]:
            self._split(group)
        self._count()

    def number(self, name: str) -> int | None:
        """Return the number of the group of a module, or None."""
        return self._numbers.get(tuple(name.split(".")))

    def opened(self) -> list[int]:
        """Return the groups that are open at first: level by level, as long as there is room."""
        opened: list[int] = []
        shown = len(self._children[TOP])
        level = self._groups_in(TOP)
        while level:
            fitting = []
            # Small groups first: what does not fit stays closed.
            for group in sorted(level, key=lambda each: len(self._children[each])):
                more = len(self._children[group]) - 1
                if shown + more <= MOST_BOXES:
                    fitting.append(group)
                    shown += more
            opened += fitting
            level = [inner for group in fitting for inner in self._groups_in(group)]
        return sorted(opened)

    def _groups_in(self, group: int) -> list[int]:
        return [~child for child in self._children[group] if child < 0]

    def _group(self, path: Path) -> int:
        """Return the number of the group of a path, made where it is new."""
        if path not in self._numbers:
            parent = self._group(path[:-1])
            self._numbers[path] = self._add(".".join(path), path[-1], parent)
            self._children[parent].append(~self._numbers[path])
        return self._numbers[path]

    def _add(self, name: str, label: str, parent: int) -> int:
        number = len(self.groups)
        self.groups.append(Group(name=name, label=label, parent=parent))
        self._children[number] = []
        return number

    def _split(self, group: int) -> None:
        """Put the boxes of a long list into stretches, until the list is short."""
        while len(children := self._children[group]) > MOST_CHILDREN:
            stretches = min(MOST_CHILDREN, -(-len(children) // (MOST_CHILDREN // 2)))
            size = -(-len(children) // stretches)
            parts = [children[i : i + size] for i in range(0, len(children), size)]
            self._children[group] = [~self._stretch(part, group) for part in parts]

    def _stretch(self, children: list[int], parent: int) -> int:
        first, last = self._label(children[0]), self._label(children[-1])
        number = self._add("", f"{first} \N{HORIZONTAL ELLIPSIS} {last}", parent)
        self._children[number] = children
        for child in children:
            if child < 0:
                self.groups[~child].parent = number
            else:
                self.parents[child] = number
        return number

    def _label(self, child: int) -> str:
        if child >= 0:
            return self.labels[child]
        return self.groups[~child].label.split(" \N{HORIZONTAL ELLIPSIS} ")[0]

    def _count(self) -> None:
        for group in self.parents:
            while group != TOP:
                self.groups[group].inside += 1
                group = self.groups[group].parent


def _relieve(
    places: list[tuple[Path, str]], nodes: Sequence[Node], edges: Iterable[tuple[str, str]]
) -> None:
    """Move functions out of crowded groups, into the module that they end.

    Such are the sums of a long residual network that is written in one forward.
    """
    boxes = Counter(path for path, _ in places)
    crowded = {path for path, count in boxes.items() if count > MOST_CHILDREN}
    if not crowded:
        return
    paths = {n.name: p for n, (p, _) in zip(nodes, places, strict=True) if n.role == "module"}
    sources: dict[str, list[Path]] = defaultdict(list)
    for source, target in edges:
        if source in paths:
            sources[target].append(paths[source])
    for index, node in enumerate(nodes):
        path, label = places[index]
        if node.role == "function" and path in crowded and sources[node.name]:
            levels = zip(*sources[node.name], strict=False)
            home = tuple(level[0] for level in takewhile(lambda of: len(set(of)) == 1, levels))
            if home[: len(path)] == path:
                places[index] = home, label


def _place(node: Node, modules: set[str]) -> tuple[Path, str]:
    """Return the path of the group that a node lies in, and the last part of its own name."""
    if node.role == "module":
        # A path can be as deep as its writer likes; what is too deep is one box.
        *path, label = node.name.split(".", MOST_DEPTH)
        return tuple(path), label or "model"
    head, arrow, label = node.name.rpartition(" > ")
    if not arrow:
        return (), node.name
    path = head.split(".", MOST_DEPTH)
    # A function after a leaf module lies beside it.
    return tuple(path[:-1] if head in modules else path), label
