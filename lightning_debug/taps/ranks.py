"""What the processes of a run have in common: one sum over all of them at a look."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import ClassVar, Protocol

from torch import Tensor
from torch.nn import Module

from lightning_debug.observation import Ranks, RankTensor
from lightning_debug.taps.processes import Processes, Sum
from lightning_debug.taps.statistics import PARAMETER_SAMPLE, dense, norms, sample
from lightning_debug.taps.transfer import Entry, Ledger

# Of each process: whether it takes part, its step, what a look costs, how far its tensors are
# from those of the others, which data it has to see, and its batch and targets.
PLACES = 7
# How many numbers the drafts of gradients and of updates give for each parameter.
GRADIENT_SHARES = 7
UPDATE_SHARES = 5
ROUNDING = 1e-9


class Shares(Protocol):
    """Numbers of parameters of which each process has measured its own part or copy."""

    def shares(self) -> Iterator[tuple[str, Sequence[float]]]:
        """Yield the numbers of each parameter, by name: squares of norms, and counts."""

    def settle(self, name: str, numbers: Sequence[float]) -> None:
        """Take the numbers of a parameter as they are over all its parts."""


@dataclass(frozen=True, slots=True)
class Batchmark:
    """What tells batches apart: a number for all, and one for the targets; nan for none."""

    whole: float = math.nan
    targets: float = math.nan


@dataclass(frozen=True)
class Layout:
    """Where in the row the numbers of each tensor lie.

    Attributes:
        copies: Parameters of which each process has a copy: three numbers each.
        resting: Other tensors of which each has a copy: buffers and frozen parameters.
        shards: Parameters of which each process has a part, with the number of processes that
            have the same part.
    """

    copies: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    shards: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> float:
        """Return a number that other names, and names shared out otherwise, do not have."""
        text = repr((self.copies, self.resting, sorted(self.shards.items())))
        return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))


@dataclass
class _Sent:
    """A look whose sums are on their way."""

    step: int
    epoch: int
    row: list[float]
    sum: Sum
    gradients: Sequence[Shares]
    updates: Sequence[Shares]
    mark: Batchmark


class RankTap:
    """Compares the copies that processes have of one model, and adds up the parts.

    All numbers of a look go into one row, which is added up over all processes in the background.
    Norms of parameters that are sharded become those of the whole; of the others each process
    sees whether its own is what all have: then their sum is as many times as large.

    Args:
        model: Its buffers and frozen parameters are compared as well.
        processes: Those that train together.
        replica: Tells by name whether the strategy makes a tensor equal everywhere.
        part: Which part of the data this process has to see; processes with the same number are
            meant to see the same.

    Attributes:
        patience: Seconds that it waits for the others, once in a run.
        cost: What a look costs the slowest process, in steps; the same in all of them.
    """

    name = "the comparison of processes"
    patience: ClassVar[float] = 10.0

    def __init__(
        self, model: Module, processes: Processes, replica: Callable[[str], bool], part: int
    ) -> None:
        self.rank, self.size = processes.rank, processes.size
        self._model = model
        self._processes = processes
        self._part = part
        self._layout = Layout()
        self._offered = _layout(model, replica)
        self._replica = replica
        self._now: dict[str, Entry] = {}
        self._late: list[str] = []
        self._before: dict[str, float] = {}
        self._changing: set[str] = set()
        self._early: set[str] | None = None
        self._apart = 0.0
        self._sent: _Sent | None = None
        self.cost = 0.0

    def start(self) -> None:
        """Find out whether all processes have the same tensors. Waits for them.

        Raises:
            TimeoutError: If one does not answer.
        """
        mine = self._offered.fingerprint
        total, squares = self._processes.sum([mine, mine * mine]).take(self.patience)
        if total == self.size * mine and math.isclose(squares, self.size * mine * mine):
            self._layout = self._offered

    def begin(self, ledger: Ledger) -> None:
        """Measure the tensors that no optimizer changes, before the step does."""
        tensors = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        known = {*self._layout.copies, *self._layout.resting, *self._layout.shards}
        late = [n for n in tensors.keys() - known if self._replica(n)]
        wanted = [*self._layout.resting, *sorted(late)] if known else []
        found = {n: v for n in wanted if (v := dense(tensors.get(n))) is not None}
        few = [sample(values, PARAMETER_SAMPLE) for values in found.values()]
        self._now = dict(zip(found, ledger.note_placed(norms(few)), strict=True))
        self._late = [name for name in found if name not in known]

    def send(
        self,
        step: int,
        epoch: int,
        gradients: Sequence[Shares],
        updates: Sequence[Shares],
        mark: Batchmark,
        cost: float,
    ) -> None:
        """Start to add up the numbers of a look, which have arrived on the host.

        Args:
            step: Optimizer updates made before.
            epoch: Epoch, counted from 0.
            gradients: Squares of norms of weights and gradients, and more.
            updates: Squares of norms of updates, and more.
            mark: The batch of this process.
            cost: What a look costs this process, in steps.
        """
        mine = [1.0, float(step), cost, self._apart, float(self._part), mark.whole, mark.targets]
        places = [0.0] * (PLACES * self.size)
        places[PLACES * self.rank : PLACES * (self.rank + 1)] = [
            0.0 if math.isnan(number) else number for number in mine
        ]
        first, second = _by_name(gradients), _by_name(updates)
        copies = [
            number
            for name in self._layout.copies
            for number in (*first.get(name, (0.0, 0.0))[:2], *second.get(name, (0.0,))[:1])
        ]
        squares = {name: entry.value**2 for name, entry in self._now.items()}
        resting = [squares.get(name, 0.0) for name in self._layout.resting]
        resting.append(sum(squares[name] for name in self._late))
        shards = [
            number / owners
            for name, owners in self._layout.shards.items()
            for number in (
                *_filled(first.get(name), GRADIENT_SHARES),
                *_filled(second.get(name), UPDATE_SHARES),
            )
        ]
        row = [*places, *copies, *resting, *shards]
        total = self._processes.sum(row)
        self._sent = _Sent(step, epoch, row, total, gradients, updates, mark)

    @property
    def waiting(self) -> bool:
        """Tell whether sums are on their way."""
        return self._sent is not None

    @property
    def arrived(self) -> bool:
        """Tell whether :meth:`take` would not wait."""
        return self._sent is not None and self._sent.sum.arrived

    def forget(self) -> None:
        """Do not wait for the others: the run has ended too soon."""
        self._sent = None

    def take(self) -> Ranks | None:
        """Return what the sums tell, and hand out those of parameters that are sharded.

        Raises:
            TimeoutError: If a process does not answer.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            return None
        totals = sent.sum.take(self.patience)
        slots, copies, resting, shards = self._cut(totals)
        places = [slots[PLACES * r : PLACES * (r + 1)] for r in range(self.size)]
        self.cost = max(place[2] for place in places)
        if any(place[:2] != [1.0, float(sent.step)] for place in places):
            return None  # a process is at another step
        _, own_copies, own_resting, _ = self._cut(sent.row)
        tensors = self._compare_copies(own_copies, copies)
        tensors |= self._compare_resting(own_resting, resting)
        self._hand_out(sent, shards)
        if self._early is None:
            self._early = {name for name, tensor in tensors.items() if tensor.weight > 0.0}
        self._apart = max((_largest(tensor) for tensor in tensors.values()), default=0.0)
        return Ranks(
            step=sent.step,
            epoch=sent.epoch,
            processes=self.size,
            rank=self.rank,
            compared=len(self._layout.copies) + len(self._layout.resting),
            tensors={n: replace(t, early=n in self._early) for n, t in tensors.items()},
            farthest=_farthest([place[3] for place in places]),
            batch=sent.mark.whole,
            targets=sent.mark.targets,
            same_batch=_groups(places, 5),
            same_targets=_groups(places, 6),
        )

    def _cut(self, row: Sequence[float]) -> list[Sequence[float]]:
        """Return the parts of a row: of processes, copies, resting tensors and shards."""
        lengths = (
            PLACES * self.size,
            3 * len(self._layout.copies),
            len(self._layout.resting) + 1,
            (GRADIENT_SHARES + UPDATE_SHARES) * len(self._layout.shards),
        )
        ends = list(accumulate(lengths, initial=0))
        return [row[start:end] for start, end in pairwise(ends)]

    def _apart_from_mean(self, row: Sequence[float], totals: Sequence[float]) -> list[float]:
        return [_distance(own, total / self.size) for own, total in zip(row, totals, strict=True)]

    def _compare_copies(
        self, row: Sequence[float], totals: Sequence[float]
    ) -> dict[str, RankTensor]:
        """Return the trained parameters of which this process has not what all have on average."""
        apart = self._apart_from_mean(row, totals)
        found = {}
        for i, name in enumerate(self._layout.copies):
            weight, gradient, update = apart[3 * i : 3 * i + 3]
            if weight or gradient or update:
                found[name] = RankTensor(weight=weight, gradient=gradient, update=update)
        return found

    def _compare_resting(
        self, row: Sequence[float], totals: Sequence[float]
    ) -> dict[str, RankTensor]:
        """Return the same for buffers, frozen parameters, and what has come late."""
        parameters = {name for name, _ in self._model.named_parameters()}
        found = {}
        names = (*self._layout.resting, self._late[0] if self._late else "")
        for name, own, weight in zip(names, row, self._apart_from_mean(row, totals), strict=True):
            if self._before.get(name, own) != own:
                self._changing.add(name)
            self._before[name] = own
            if weight and name:
                kind = "parameter" if name in parameters else "buffer"
                found[name] = RankTensor(kind=kind, weight=weight, changes=name in self._changing)
        return found

    def _hand_out(self, sent: _Sent, totals: Sequence[float]) -> None:
        both = GRADIENT_SHARES + UPDATE_SHARES
        for i, name in enumerate(self._layout.shards):
            numbers = totals[both * i : both * (i + 1)]
            for drafts, part in (
                (sent.gradients, numbers[:GRADIENT_SHARES]),
                (sent.updates, numbers[GRADIENT_SHARES:]),
            ):
                for draft in drafts:
                    draft.settle(name, part)


def _layout(model: Module, replica: Callable[[str], bool]) -> Layout:
    copies: list[str] = []
    resting: list[str] = []
    shards: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        owners = _owners(parameter)
        if owners is not None and owners > 0.0:
            shards[name] = owners
        elif owners is None and replica(name):
            (copies if parameter.requires_grad else resting).append(name)
    buffers = (n for n, b in model.named_buffers() if b.is_floating_point() and replica(n))
    return Layout(tuple(copies), (*resting, *buffers), shards)


def _owners(tensor: Tensor) -> float | None:
    """Return how many processes hold the same part of a tensor; None for one without parts."""
    placements = getattr(tensor, "placements", None)
    mesh = getattr(tensor, "device_mesh", None)
    if placements is None or mesh is None:
        return None
    from torch.distributed import get_world_size

    parts = math.prod(
        size for size, placement in zip(mesh.shape, placements, strict=True) if placement.is_shard()
    )
    return float(get_world_size() / parts)


def _by_name(drafts: Iterable[Shares]) -> dict[str, Sequence[float]]:
    return {name: numbers for draft in drafts for name, numbers in draft.shares()}


def _filled(numbers: Sequence[float] | None, length: int) -> Sequence[float]:
    return numbers if numbers is not None else [0.0] * length


def _distance(own: float, mean: float) -> float:
    """Return how far a norm is from a mean, relative, from their squares; 0 for rounding."""
    if own == mean or not (math.isfinite(own) and math.isfinite(mean)):
        return 0.0
    distance = abs(math.sqrt(own) - math.sqrt(mean)) / max(math.sqrt(own), math.sqrt(mean))
    return distance if distance > ROUNDING else 0.0


def _largest(tensor: RankTensor) -> float:
    expected = tensor.kind == "buffer" and tensor.changes
    return 0.0 if expected else max(tensor.weight, tensor.gradient, tensor.update)


def _farthest(apart: Sequence[float]) -> tuple[int, ...]:
    """Return the ranks that stand out: nearly as far as the farthest, and a minority."""
    most = max(apart)
    ranks = tuple(rank for rank, distance in enumerate(apart) if distance > 0.75 * most)
    return ranks if 2 * len(ranks) < len(apart) else ()


def _groups(places: Sequence[Sequence[float]], column: int) -> tuple[tuple[int, ...], ...]:
    """Return the ranks with the same number, of those that are meant to have different ones."""
    groups: dict[float, list[int]] = defaultdict(list)
    for rank, place in enumerate(places):
        if place[column]:
            groups[place[column]].append(rank)
    return tuple(
        tuple(ranks) for ranks in groups.values() if len({places[rank][4] for rank in ranks}) > 1
    )
