"""What ran in a training step, as boxes and the tensors between them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy

from lightning_debug.observation import owner
from lightning_debug.picture import Network, Node
from lightning_debug.taps.trace import Frame

MOST_NODES, MOST_EDGES = 2_000, 8_000
# Of one name in one module: loops that are written out, such as recurrent ones, go on for long.
MOST_JOINS = 64
LOSS, STEP = "loss", "training_step"

Shape = tuple[int, ...]


@dataclass(slots=True)
class Event:
    """A function or a module that has run, or a backward pass that starts.

    Attributes:
        name: Of the function; empty for modules, and ``"loss"`` without a frame for a backward
            pass.
        frame: The module, or the one in which the function ran; None for the step itself.
        inputs, outputs: What stands for the tensors that it took and gave.
        weights: Parameters that the function took.
        shapes: Of the first tensors that it gave and took.
    """

    name: str
    frame: Frame | None
    inputs: Sequence[int]
    outputs: Sequence[int] = ()
    weights: Sequence[Tensor] = ()
    shapes: tuple[Shape, Shape] = ((), ())

    @property
    def shape(self) -> Shape:
        """Return the shape of what it gave."""
        return self.shapes[0]

    @property
    def input_shape(self) -> Shape:
        """Return the shape of what it took."""
        return self.shapes[1]


class Drawing:
    """Makes boxes and lines of what ran.

    A leaf module is one box, with all functions that ran in it. Of the functions between modules
    those are boxes that bring tensors of different boxes together, or take parameters; others
    pass on what they took.

    Args:
        model: Knows whose the parameters are.
        events: What ran, in order.
    """

    def __init__(self, model: Module, events: Sequence[Event]) -> None:
        self._events = events
        self._modules = dict(model.named_modules())
        self._owners = {id(p): owner(name) for name, p in model.named_parameters()}
        self._leaves = {e.frame.path for e in events if e.frame is not None and e.frame.leaf}
        self._nodes: dict[str, Node] = {}
        self._names: dict[Hashable, str] = {}
        self._edges: dict[tuple[str, str], None] = {}
        self._makers: dict[int, str] = {}
        self._joins: Counter[tuple[str, str]] = Counter()
        self._left_out: set[Hashable] = set()
        self._entered: set[tuple[str, int]] = set()

    def network(self, inputs: Iterable[tuple[str, Tensor, int]], step: int) -> Network:
        """Return the picture, without what leads to nothing.

        Args:
            inputs: The tensors of the batch, with their paths and what stands for them.
            step: Optimizer updates made before.
        """
        for path, tensor, token in inputs:
            node = Node(name=path, kind="input", role="input", shape=shape_of([tensor]))
            self._give([token], self._box(("input", path), node))
        for event in self._events:
            if event.frame is None and event.name == LOSS and not event.outputs:
                node = Node(name=LOSS, kind=LOSS, role="loss", shape=event.shape, calls=0)
                self._connect(event, self._box(LOSS, node, calls=1))
            elif event.frame is not None and event.frame.leaf:
                self._connect(event, self._module(event.frame, event))
            else:
                self._add_function(event)
        nodes = self._leading()
        names = {node.name for node in nodes}
        edges = tuple((a, b) for a, b in self._edges if a in names and b in names)
        return Network(step=step, nodes=nodes, edges=edges, more=len(self._left_out))

    def _add_function(self, event: Event) -> None:
        sources = list(dict.fromkeys(self._sources(event)))
        held = [self._owners[id(p)] for p in event.weights if id(p) in self._owners]
        loose = [path for path in held if path not in self._leaves]
        if loose:
            self._connect(event, self._container(loose[0], event))
        elif held or len(sources) > 1:
            self._connect(event, self._function(event, frozenset((*sources, *held))))
        elif sources:
            self._give(event.outputs, sources[0])

    def _module(self, frame: Frame, event: Event) -> str | None:
        """Return the box of a leaf module; a function that runs in it is a part of its run."""
        kind = type(frame.module).__name__
        node = Node(name=frame.path or kind, kind=kind, calls=0)
        node = _sized(node, frame.module.parameters())
        name = self._box(("module", frame.path), node, calls=int(not event.name))
        if name is not None and not event.name:
            box = self._nodes[name]
            self._nodes[name] = replace(box, shape=event.shape, input_shape=event.input_shape)
        return name

    def _container(self, path: str, event: Event) -> str | None:
        """Return the box of a module whose own parameters are used outside of leaf modules."""
        module = self._modules[path]
        kind = type(module).__name__
        node = Node(name=path or kind, kind=kind, shape=event.shape, calls=0)
        node = replace(node, input_shape=event.input_shape)
        node = _sized(node, module.parameters(recurse=False))
        run = path, id(event.frame)
        calls = int(run not in self._entered)
        self._entered.add(run)
        return self._box(("module", path), node, calls=calls)

    def _function(self, event: Event, sources: frozenset[str]) -> str | None:
        """Return the box of a function; the same one for the same function of the same tensors."""
        frame = event.frame
        place = STEP if frame is None else frame.path or type(frame.module).__name__
        join = place, event.name
        key: Hashable = (*join, sources)
        if key not in self._names and key not in self._left_out:
            self._joins[join] += 1
            if self._joins[join] > MOST_JOINS:
                key = join
        count = self._joins[join]
        name = f"{place} > {event.name}" + (f" {count}" if count > 1 else "")
        node = Node(name=name, kind=event.name, role="function", shape=event.shape, calls=0)
        return self._box(key, replace(node, input_shape=event.input_shape), calls=1)

    def _box(self, key: Hashable, node: Node, calls: int = 0) -> str | None:
        """Return the name of a box, new or not; None where there are too many."""
        if key not in self._names:
            if len(self._nodes) >= MOST_NODES:
                self._left_out.add(key)
                return None
            name, number = node.name, 1
            while name in self._nodes:
                number += 1
                name = f"{node.name} ({number})"
            self._names[key] = name
            self._nodes[name] = replace(node, name=name)
        name = self._names[key]
        if calls:
            self._nodes[name] = replace(self._nodes[name], calls=self._nodes[name].calls + calls)
        return name

    def _connect(self, event: Event, name: str | None) -> None:
        sources = self._sources(event)
        if name is None:
            self._give(event.outputs, sources[0] if sources else None)
            return
        for source in sources:
            if source != name and len(self._edges) < MOST_EDGES:
                self._edges[source, name] = None
        self._give(event.outputs, name)

    def _sources(self, event: Event) -> list[str]:
        return [self._makers[token] for token in event.inputs if token in self._makers]

    def _give(self, tokens: Iterable[int], name: str | None) -> None:
        if name is not None:
            self._makers |= dict.fromkeys(tokens, name)

    def _leading(self) -> tuple[Node, ...]:
        """Return the boxes that lead to a loss or to parameters: others are made for logs."""
        nodes = tuple(self._nodes.values())
        if not any(target == self._names.get(LOSS) for _, target in self._edges):
            return nodes
        before = defaultdict(list)
        for source, target in self._edges:
            before[target].append(source)
        waiting = [n.name for n in nodes if n.parameters or n.role in ("input", "loss")]
        leading = set(waiting)
        while waiting:
            new = [name for name in before[waiting.pop()] if name not in leading]
            leading.update(new)
            waiting.extend(new)
        return tuple(node for node in nodes if node.name in leading)


def joined(old: Network, new: Network) -> Network:
    """Return a picture of all that ran in either of two steps, each box as it was last."""
    names = {node.name for node in new.nodes}
    nodes = (*new.nodes, *(node for node in old.nodes if node.name not in names))
    edges = tuple(dict.fromkeys((*new.edges, *old.edges)))
    more = max(old.more, new.more) + max(0, len(nodes) - MOST_NODES)
    kept = {node.name for node in nodes[:MOST_NODES]}
    within = [(a, b) for a, b in edges if a in kept and b in kept]
    return replace(new, nodes=nodes[:MOST_NODES], edges=tuple(within[:MOST_EDGES]), more=more)


def shape_of(tensors: Sequence[Tensor]) -> Shape:
    """Return the shape of the first tensor; nothing where it has none to speak of."""
    if not tensors or is_lazy(tensors[0]) or tensors[0].is_nested:
        return ()
    return tuple(map(int, tensors[0].shape))


def _sized(node: Node, parameters: Iterable[Parameter]) -> Node:
    """Return a box with what it owns."""
    held = [p for p in parameters if not is_lazy(p)]
    trained = sum(p.numel() for p in held if p.requires_grad)
    return replace(node, parameters=sum(p.numel() for p in held), trainable=trained)
