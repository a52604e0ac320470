"""The loss taken apart: its summands, where each comes from, and the gradient that each sends."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_debug.observation import LossTerm
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.graph import is_size_of_activations, nearby, only_inputs
from lightning_debug.taps.lines import user_line
from lightning_debug.taps.loss_calls import LOSSES
from lightning_debug.taps.statistics import bare, dense, norm, tensors_in
from lightning_debug.taps.trace import PLAIN, Mark, Trace
from lightning_debug.taps.transfer import Entry, Ledger

ADDS = frozenset(["add", "add_", "__radd__"])
SUBTRACTS = frozenset(["sub", "sub_", "subtract", "__rsub__", "rsub"])
MULTIPLIES = frozenset(["mul", "mul_", "multiply"])
DIVIDES = frozenset(["div", "div_", "divide", "true_divide"])
KEEPS = frozenset(
    """to clone squeeze unsqueeze view reshape float double half bfloat16 cpu cuda contiguous
    type type_as view_as neg mean sum""".split()
)
LISTS = frozenset(["stack", "cat", "hstack", "concat"])
READS = frozenset(["item", "__float__", "tolist", "numpy"])
MADE = frozenset(["tensor", "as_tensor", "scalar_tensor"])
REVERSED = frozenset(["__rsub__", "rsub"])
MOST_SCALARS = 10_000
MOST_TERMS = 2_000
MOST_NODES = 20_000
MOST_BACKWARDS = 4
NEAR = 6


@dataclass(eq=False, slots=True)
class _Scalar:
    """A number that the training step computed: the function, and the numbers that it took.

    Attributes:
        made_by: The module that made what it was computed of; None if none did.
    """

    name: str
    inputs: tuple[_Scalar | float, ...]
    value: Tensor
    node: Node | None = None
    mark: Mark = PLAIN
    made_by: str | None = None
    place: str = ""
    line: str = ""

    @property
    def trained(self) -> bool:
        return self.node is not None


@dataclass(eq=False, slots=True)
class _Term:
    """A summand, with the factors that stand before it."""

    scalar: _Scalar | float
    weight: float = 1.0
    factors: tuple[Tensor, ...] = ()


@dataclass(eq=False, slots=True)
class _Draft:
    """What is known of a summand; several penalties on weights are one.

    Attributes:
        inputs: All that its gradient goes to, where that is no parameter.
    """

    name: str
    total: int
    weight: float
    values: list[Entry]
    trained: bool = True
    cut: str = ""
    cut_at: str = ""
    penalty: bool = False
    activity: bool = False
    line: str = ""
    call: int = -1
    scaled: bool = False
    modelled: bool = False
    nodes: list[Node] = field(default_factory=list)
    squares: list[Entry] = field(default_factory=list)
    inputs: list[weakref.ref[Tensor]] = field(default_factory=list)


class TermTap(Listener):
    """Hears of the arithmetic on numbers, and takes the loss apart when backward starts from it.

    A summand ends where a function made a number of more than numbers: a loss function, a mean.
    How much gradient it sends into what it shares with other summands is read off the user's own
    backward pass, by hooks on the nodes of the graph where their ways meet.
    """

    names = READS
    everything = True

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ledger = Ledger()
        self._scalars: dict[int, tuple[Tensor, _Scalar]] = {}
        self._lists: dict[int, tuple[Tensor, tuple[_Scalar | float, ...]]] = {}
        self._read = False
        self._read_at = ""
        self._drafts: list[_Draft] = []
        self._handles: list[RemovableHandle] = []
        self._totals = 0
        self._on = False
        self._batch: dict[int, weakref.ref[Tensor]] | None = None

    def begin(self, ledger: Ledger, *, wanted: bool, batch: Any = None) -> None:
        """Start a look.

        Args:
            ledger: Takes the numbers.
            wanted: Whether somebody asks for them.
            batch: The batch, if only the optimizers of the model use gradients; None where the
                step itself may, as in manual optimization.
        """
        self._ledger = ledger
        self._on = wanted
        self._batch = None
        if batch is not None:
            self._batch = {id(tensor): weakref.ref(tensor) for tensor in tensors_in(batch)}
        self._drafts, self._totals, self._read = [], 0, False

    def end(self) -> None:
        """Let go of the tensors and take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._scalars.clear()
        self._lists.clear()
        for draft in self._drafts:
            draft.nodes.clear()
            if draft.inputs and all(map(self._is_spent, draft.inputs)):
                draft.trained, draft.cut = False, "input"

    def _is_spent(self, reference: weakref.ref[Tensor]) -> bool:
        """Tell whether nobody keeps a tensor after the step, and so none trains it."""
        tensor = reference()
        return tensor is None or (self._batch or {}).get(id(tensor), lambda: None)() is tensor

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Remember where a number comes from."""
        if not self._on or len(self._scalars) >= MOST_SCALARS:
            return
        name = getattr(func, "__name__", "")
        if name in READS:
            self._hear_read(name, args[0])
        elif isinstance(out, Tensor) and out.numel() == 1 and out.is_floating_point():
            inputs = tuple(self._inputs(args, kwargs))
            listed = self._listed(name, args)
            self._scalars[id(out)] = out, self._scalar(name, listed or inputs, out)
        elif name in LISTS and isinstance(out, Tensor) and args:
            items = tuple(self._inputs((args[0],), {}))
            if items and len(items) == out.numel():
                self._lists[id(out)] = out, items

    def _hear_read(self, name: str, value: Any) -> None:
        """Note that a number is read out of a tensor that the model made."""
        if not isinstance(value, Tensor):
            return
        cut = self._trace.marked(value).cut
        if self._trace.suspects:
            self._trace.read_out(name, value)
        if not self._read and (cut or value.requires_grad):
            self._read, self._read_at = True, user_line()

    def backward(self, loss: Tensor, calls: Mapping[Node, int]) -> None:
        """Take apart a loss that backward starts from.

        Args:
            loss: The number.
            calls: Position of each call of a loss function by the node that it made.
        """
        known = self._scalars.get(id(loss))
        if not self._on or known is None or self._totals >= MOST_BACKWARDS:
            return
        terms = list(itertools.islice(_expand(known[1]), MOST_TERMS))
        trained = {t.scalar for t in terms if isinstance(t.scalar, _Scalar) and t.scalar.trained}
        drafts: list[_Draft] = []
        penalty: _Draft | None = None
        for term in terms:
            draft = self._draft(term, trained, calls, {d.name for d in drafts})
            if draft is not None and draft.penalty and penalty is not None:
                penalty.values += draft.values
                penalty.nodes += draft.nodes
            elif draft is not None:
                drafts.append(draft)
                penalty = draft if draft.penalty else penalty
        if self._batch is not None and len(drafts) > 1:
            self._find_inputs([draft for draft in drafts if draft.nodes])
        self._follow([draft for draft in drafts if draft.nodes])
        self._drafts += drafts
        self._totals += 1

    @property
    def totals(self) -> int:
        """Return how many losses of this look have been taken apart."""
        return self._totals

    def observations(self) -> tuple[LossTerm, ...]:
        """Return the summands of this look, in the order of the sums."""
        return tuple(
            LossTerm(
                name=draft.name,
                total=draft.total,
                value=sum(entry.value for entry in draft.values),
                weight=draft.weight,
                scaled=draft.scaled,
                trained=draft.trained,
                cut=draft.cut,
                cut_line=draft.cut_at,
                penalty=draft.penalty,
                activity=draft.activity,
                line=draft.line,
                call=draft.call,
                gradient=math.sqrt(sum(entry.value for entry in draft.squares))
                if draft.squares
                else math.nan,
            )
            for draft in self._drafts
        )

    def _inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[_Scalar | float]:
        """Yield the numbers that a function took; nothing if it took anything larger."""
        tensors = list(tensors_in((args, kwargs)))
        if any(tensor.numel() != 1 for tensor in tensors):
            return
        for value in _flat((*args, *kwargs.values())):
            if isinstance(value, Tensor):
                known = self._scalars.get(id(value))
                yield known[1] if known else self._scalar("tensor", (), value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                yield float(value)

    def _listed(self, name: str, args: Sequence[Any]) -> tuple[_Scalar | float, ...]:
        """Return what was put into the list of numbers that is summed up here."""
        if name not in ("sum", "mean") or not args:
            return ()
        known = self._lists.get(id(args[0]))
        return known[1] if known else ()

    def _scalar(self, name: str, inputs: tuple[_Scalar | float, ...], out: Tensor) -> _Scalar:
        leaf = not any(isinstance(value, _Scalar) for value in inputs)
        origin = self._trace.origin(out)
        return _Scalar(
            name,
            inputs,
            bare(out).clone(),  # in-place sums write over their first summand
            node=out.grad_fn,
            mark=self._trace.marked(out),
            made_by=None if origin is None else origin.place,
            place=self._trace.place,
            line=user_line() if leaf else "",
        )

    def _draft(
        self, term: _Term, trained: set[_Scalar], calls: Mapping[Node, int], taken: set[str]
    ) -> _Draft | None:
        scalar = term.scalar
        if isinstance(scalar, float):
            if not self._read or scalar * term.weight == 0.0:
                return None
            return self._number(Entry(scalar * term.weight), term.weight)
        if self._read and not scalar.trained and _typed(_source(scalar)):
            number = self._ledger.note(scalar.value.reshape(()) * term.weight)
            return self._number(number, term.weight)
        penalty = scalar.mark.material is not None
        lost = scalar.mark.cut or ("frozen" if self._is_frozen(scalar) else "")
        if not scalar.trained and (penalty or not lost or _ancestors(scalar) & trained):
            return None
        source = _source(scalar)
        name = source.name + (f" at {source.place}" if source.place else "")
        name = "penalty on weights" if penalty else _free(name, taken)
        value = scalar.value
        for factor in term.factors:
            value = value * factor
        return _Draft(
            name,
            self._totals,
            term.weight,
            [self._ledger.note(value.reshape(()) * term.weight)],
            trained=scalar.trained,
            cut="" if scalar.trained else lost,
            cut_at="" if scalar.trained else scalar.mark.line,
            penalty=penalty,
            activity=is_size_of_activations(scalar.node),
            line=source.line,
            call=_call(scalar.node, calls),
            scaled=bool(term.factors),
            modelled=scalar.made_by is not None and not penalty,
            nodes=[scalar.node] if scalar.node else [],
        )

    def _is_frozen(self, scalar: _Scalar) -> bool:
        """Tell whether layers made a number that are not trained, and something else should have.

        What a prediction is held against, as a teacher's output, has an entropy: a constant that
        makes a divergence of a cross entropy.
        """
        held = scalar.made_by in self._trace.targets and _source(scalar).name not in LOSSES
        return scalar.made_by is not None and not held

    def _number(self, value: Entry, weight: float) -> _Draft:
        """Return the draft of a number that may have been read out of a tensor."""
        return _Draft("a number", self._totals, weight, [value], False, "item", self._read_at)

    def _find_inputs(self, drafts: Sequence[_Draft]) -> None:
        """Note which summands train no parameter, though others do."""
        found = [only_inputs(draft.nodes[0]) for draft in drafts]
        for draft, leaves in zip(drafts, found, strict=True):
            listened = any(map(_listened, leaves))
            if draft.modelled and not listened and not all(found):
                draft.inputs = [weakref.ref(leaf) for leaf in leaves]

    def _follow(self, drafts: Sequence[_Draft]) -> None:
        """Listen to the gradients where the ways of several summands meet."""
        if len(drafts) < 2:
            return
        reached: dict[Node, int] = {}
        for position, draft in enumerate(drafts):
            _reach(draft.nodes, 1 << position, reached)
            if len(reached) > MOST_NODES:
                return
        for node, mask in reached.items():
            if mask & (mask - 1):
                continue  # shared already
            edges = [
                i
                for i, (after, _) in enumerate(node.next_functions)
                if after is not None and reached[after] != mask
            ]
            if edges:
                self._listen(node, edges, drafts[mask.bit_length() - 1])

    def _listen(self, node: Node, edges: Sequence[int], draft: _Draft) -> None:
        ledger = self._ledger

        def hear(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:
            for edge in edges:
                values = dense(inputs[edge]) if edge < len(inputs) else None
                if values is not None:
                    draft.squares.append(ledger.note(norm(values) ** 2))

        self._handles.append(node.register_hook(hear))


def _expand(total: _Scalar) -> Iterator[_Term]:
    """Yield the summands of a number, in their order."""
    todo = [_Term(total)]
    while todo:
        term = todo.pop()
        parts = _parts(term.scalar) if isinstance(term.scalar, _Scalar) else []
        if not parts:
            yield term
        for part in reversed(parts):
            weight, factors = term.weight * part.weight, term.factors + part.factors
            todo.append(_Term(part.scalar, weight, factors))


def _parts(value: _Scalar) -> list[_Term]:
    """Return the summands of a number by the function that made it; nothing if it is one."""
    name, inputs = value.name, value.inputs
    if not value.trained:
        return []
    if name in ADDS or (name in ("sum", "mean") and len(inputs) > 1):
        share = 1.0 / len(inputs) if name == "mean" else 1.0
        return [_Term(part, share) for part in inputs]
    if name in SUBTRACTS and len(inputs) == 2:
        first = -1.0 if name in REVERSED else 1.0
        return [_Term(inputs[0], first), _Term(inputs[1], -first)]
    if name == "neg" and inputs:
        return [_Term(inputs[0], -1.0)]
    if name in KEEPS and inputs and isinstance(inputs[0], _Scalar):
        return [_Term(inputs[0])]
    if (name in MULTIPLIES or name in DIVIDES) and len(inputs) == 2:
        return _product(inputs[0], inputs[1], divided=name in DIVIDES)
    return []


def _product(left: _Scalar | float, right: _Scalar | float, *, divided: bool) -> list[_Term]:
    """Return the summand in a product, with its factor; nothing if both sides are summands."""
    if not divided and not _is_summand(left):
        left, right = right, left
    if not _is_summand(left) or _is_summand(right):
        return []
    if isinstance(right, float):
        return [_Term(left, 1.0 / right if divided and right else right)]
    return [_Term(left, 1.0, (1.0 / right.value if divided else right.value,))]


def _is_summand(value: _Scalar | float) -> bool:
    """Tell whether a number carries a gradient from data, and is no learned weight of a loss."""
    return isinstance(value, _Scalar) and value.trained and value.mark.material is None


def _typed(scalar: _Scalar) -> bool:
    """Tell whether a tensor was made of a plain number."""
    given = [isinstance(value, float) for value in scalar.inputs]
    return scalar.name in MADE and bool(given) and all(given)


def _source(scalar: _Scalar) -> _Scalar:
    """Return the number that a product or a difference of numbers was made of first."""
    while True:
        first = next((v for v in scalar.inputs if isinstance(v, _Scalar) and v.inputs), None)
        first = first or next((v for v in scalar.inputs if isinstance(v, _Scalar)), None)
        if first is None:
            return scalar
        scalar = first


def _ancestors(scalar: _Scalar) -> set[_Scalar]:
    found: set[_Scalar] = set()
    todo = [scalar]
    while todo:
        new = [v for v in todo.pop().inputs if isinstance(v, _Scalar) and v not in found]
        found.update(new)
        todo.extend(new)
    return found


def _reach(starts: Sequence[Node], bit: int, reached: dict[Node, int]) -> None:
    """Set a bit on every node of the graph that is reached from here."""
    todo = [node for node in starts if not reached.get(node, 0) & bit]
    for node in todo:
        reached[node] = reached.get(node, 0) | bit
    while todo and len(reached) <= MOST_NODES:
        for after, _ in todo.pop().next_functions:
            if after is not None and not reached.get(after, 0) & bit:
                reached[after] = reached.get(after, 0) | bit
                todo.append(after)


def _listened(leaf: Tensor) -> bool:
    """Tell whether a hook that is not ours takes the gradient of a tensor."""
    hooks = (leaf._backward_hooks or {}).values()
    return any(not str(hook.__module__).startswith(__name__.split(".")[0]) for hook in hooks)


def _call(node: Node | None, calls: Mapping[Node, int]) -> int:
    """Return the call of a loss function that a number comes from; -1 if it is near none."""
    if node is None or not calls:
        return -1
    return next((calls[near] for near in nearby(node, NEAR) if near in calls), -1)


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet: ``"mse_loss"``, ``"mse_loss 2"``."""
    names = itertools.chain([name], (f"{name} {i}" for i in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value
