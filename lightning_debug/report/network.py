"""The network as it was executed: what its drawing and its summary are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_debug.finding import Finding
from lightning_debug.look import Look
from lightning_debug.picture import Network, Node
from lightning_debug.report.colouring import COLOURINGS, Colouring, Painted, colours
from lightning_debug.report.nesting import Nesting
from lightning_debug.report.rendering import clean
from lightning_debug.stored_run import StoredRun

MOST_NODES = 1000
MOST_EDGES = 6000
MOST_NAME = 120
MOST_FINDINGS = 8
MOST_PLACE = 1000
# Findings by the number of a node, or the complement of the number of a group.
Told = dict[int, list[Finding]]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The network of a run.

    Attributes:
        data: What the scripts draw it from.
        rows: The summary: a row of the table for each node that is drawn.
        text: How large it is, in words.
        colourings: Those that something was measured for.
    """

    data: dict[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    text: str = ""
    colourings: Sequence[Colouring] = ()


def drawing(run: StoredRun) -> Drawing | None:
    """Return the drawing of the network; None where it was not recorded."""
    network = run.network
    if network is None or not network.nodes:
        return None
    nodes = network.nodes[:MOST_NODES]
    index = {node.name: number for number, node in enumerate(nodes)}
    nesting = Nesting(nodes, network.edges)
    numbers = _numbers(run.stats, index)
    told = _told(run.findings, index, nesting)
    colourings = [c for c in COLOURINGS if c.key == "findings" or c.key in numbers]
    if not told:
        colourings = colourings[1:] + colourings[:1]  # the first one is shown first
    data = {
        "nodes": _nodes(nodes, nesting, told, _painted(colourings, numbers, told, nodes)),
        "groups": _groups(nesting, told),
        "edges": _edges(network, index),
        "open": nesting.opened(),
        "colourings": [c.as_data() for c in colourings],
    }
    rows = [_row(node) for node in nodes]
    return Drawing(data=data, rows=rows, text=_size(network, nodes), colourings=colourings)


def size_of(shape: Iterable[int]) -> str:
    """Return a shape in words: ``"32 x 10"``."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, list(shape)[:8]))


def _painted(
    colourings: Iterable[Colouring],
    numbers: Mapping[str, Mapping[int, float]],
    told: Told,
    nodes: Sequence[Node],
) -> dict[str, list[Painted]]:
    """Return what is written on each node and its band, by colouring."""
    kinds = [node.kind for node in nodes]
    painted = {c.key: colours(c, numbers.get(c.key, {}), kinds) for c in colourings}
    return painted | {"findings": [(None, _worst(told.get(i, ()))) for i in range(len(nodes))]}


def _nodes(
    nodes: Sequence[Node], nesting: Nesting, told: Told, painted: Mapping[str, Sequence[Painted]]
) -> list[dict[str, Any]]:
    return [
        _box(node)
        | {"label": clean(nesting.labels[index], MOST_NAME), "parent": nesting.parents[index]}
        | {"findings": _names(told.get(index, ()))}
        | {"colours": {key: of_nodes[index] for key, of_nodes in painted.items()}}
        for index, node in enumerate(nodes)
    ]


def _groups(nesting: Nesting, told: Told) -> list[dict[str, Any]]:
    return [
        {"name": clean(group.name, MOST_NAME), "label": clean(group.label, MOST_NAME)}
        | {"parent": group.parent, "inside": group.inside}
        | {"findings": _names(told.get(~number, ())), "band": _worst(told.get(~number, ()))}
        for number, group in enumerate(nesting.groups)
    ]


def _box(node: Node) -> dict[str, Any]:
    return {
        "name": clean(node.name, MOST_NAME),
        "kind": clean(node.kind, MOST_NAME),
        "role": node.role,
        "shape": size_of(node.shape),
        "parameters": node.parameters,
        "trainable": node.trainable,
        "calls": node.calls,
    }


def _row(node: Node) -> dict[str, Any]:
    return _box(node) | {"input": size_of(node.input_shape)}


def _edges(network: Network, index: Mapping[str, int]) -> list[list[int]]:
    edges = ([index.get(a, -1), index.get(b, -1)] for a, b in network.edges)
    return [edge for edge in edges if min(edge) >= 0][:MOST_EDGES]


def _numbers(looks: Sequence[Look], index: Mapping[str, int]) -> dict[str, dict[int, float]]:
    """Return the last number of each node, by metric and number of the node."""
    last: dict[str, dict[str, float]] = {}
    for look in looks:
        for metric, values in look.layers.items():
            last.setdefault(metric, {}).update(values)
    numbers: dict[str, dict[int, float]] = {}
    for metric, values in last.items():
        # A node's own number is worth more than that of something in it.
        for name in sorted(values, key=lambda name: name in index):
            if (node := _node_of(name, index)) is not None:
                numbers.setdefault(metric, {})[node] = values[name]
    return numbers


def _node_of(place: str, index: Mapping[str, int]) -> int | None:
    """Return the number of the node that a place is in: its own, or that of a module around it."""
    name = place[:MOST_PLACE]
    while name:
        if name in index:
            return index[name]
        head, arrow, _ = name.rpartition(" > ")
        name = head if arrow else name.rpartition(".")[0]
    return None


def _told(findings: Iterable[Finding], index: Mapping[str, int], nesting: Nesting) -> Told:
    """Return the findings by the number of a node, or the complement of that of a group."""
    told: Told = {}
    for finding in findings:
        for place in dict.fromkeys(finding.places or (finding.where,)):
            group = nesting.number(place) if place else None
            node = _node_of(place, index) if group is None else ~group
            if node is not None and finding not in told.setdefault(node, []):
                told[node].append(finding)
    return told


def _names(findings: Sequence[Finding]) -> list[str]:
    return [f"{clean(f.name, MOST_NAME)} ({f.severity})" for f in findings[:MOST_FINDINGS]]


def _worst(findings: Sequence[Finding]) -> int:
    """Return the band of the worst finding."""
    return max((finding.severity.rank + 1 for finding in findings), default=0)


def _size(network: Network, nodes: Sequence[Node]) -> str:
    """Say how large a network is."""
    modules = sum(node.role == "module" for node in network.nodes)
    parameters = sum(node.parameters for node in network.nodes)
    trained = sum(node.trainable for node in network.nodes)
    text = (
        f"{modules} modules that ran, {parameters:,} parameters in them, {trained:,} of these"
        f" trained; as executed at step {network.step}."
    )
    left_out = network.more + len(network.nodes) - len(nodes)
    if left_out:
        text += f" {left_out} more boxes are not drawn."
    return text
