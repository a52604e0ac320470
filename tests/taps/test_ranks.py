"""The sum over all processes: what it tells, what it costs, and how it grows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard

from lightning_debug.observation import Ranks
from lightning_debug.taps.ranks import GRADIENT_SHARES, UPDATE_SHARES, Batchmark, RankTap
from lightning_debug.taps.transfer import Ledger


class Board:
    """Adds up the rows of several processes that are threads of one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: dict[int, list[list[float]]] = {rank: [] for rank in range(size)}
        self.changed = threading.Condition()

    def seat(self, rank: int) -> Any:
        """Return what one process talks to."""

        def sum_(row: Sequence[float]) -> Any:
            with self.changed:
                number = len(self.rows[rank])
                self.rows[rank].append(list(row))
                self.changed.notify_all()
            return SimpleNamespace(take=lambda patience: self.total(number, patience))

        return SimpleNamespace(rank=rank, size=self.size, sum=sum_)

    def total(self, number: int, patience: float) -> list[float]:
        """Return the sums, once all have given their rows."""
        with self.changed:
            all_there = lambda: all(len(rows) > number for rows in self.rows.values())  # noqa: E731
            assert self.changed.wait_for(all_there, patience)
            rows = [rows[number] for rows in self.rows.values()]
        return [sum(column) for column in zip(*rows, strict=True)]


class Drafts:
    """Numbers of parameters, as the taps give them."""

    def __init__(self, numbers: dict[str, Sequence[float]]) -> None:
        self.numbers = dict(numbers)

    def shares(self) -> Iterator[tuple[str, Sequence[float]]]:
        yield from self.numbers.items()

    def settle(self, name: str, numbers: Sequence[float]) -> None:
        self.numbers[name] = tuple(numbers)


def model(buffer: float = 0.0) -> nn.Module:
    net = nn.Linear(2, 2, bias=False)
    net.register_buffer("seen", torch.full((3,), buffer))
    return net


def together(
    models: Sequence[nn.Module],
    looks: Sequence[Callable[[int], tuple[Drafts, Drafts, Batchmark]]],
    replica: Callable[[str], bool] = lambda name: True,
) -> list[list[Ranks | None]]:
    """Return what each process is told at each look."""
    board = Board(len(models))

    def run(rank: int) -> list[Ranks | None]:
        tap = RankTap(models[rank], board.seat(rank), replica, part=rank)
        tap.start()
        told = []
        for step, look in enumerate(looks):
            ledger = Ledger()
            gradients, updates, mark = look(rank)
            tap.begin(ledger)
            ledger.send()
            ledger.settle()
            tap.send(step, 0, [gradients], [updates], mark, cost=float(rank))
            told.append(tap.take())
            assert tap.cost == len(models) - 1
        return told

    with ThreadPoolExecutor(len(models)) as pool:
        whole = list(pool.map(run, range(len(models))))
    return [list(look) for look in zip(*whole, strict=True)]


def drafts(weight: float = 1.0, gradient: float = 1.0, update: float = 1.0, **mark: float) -> Any:
    numbers = [weight**2, gradient**2, *[0.0] * (GRADIENT_SHARES - 2)]
    changes = [update**2, *[0.0] * (UPDATE_SHARES - 1)]
    return Drafts({"weight": numbers}), Drafts({"weight": changes}), Batchmark(**mark)


def last(told: list[list[Ranks | None]]) -> list[Ranks]:
    return [obs for obs in told[-1] if obs is not None]


def test_equal_copies_do_not_differ() -> None:
    first, second = last(together([model(), model()], [lambda rank: drafts(0.1, 0.3, 0.7)] * 2))
    assert first.tensors == second.tensors == {}
    assert first.compared == 2


@pytest.mark.parametrize("which", ["weight", "gradient", "update"])
def test_what_differs_is_named(which: str) -> None:
    told = last(together([model(), model()], [lambda rank: drafts(**{which: 1.0 + 0.1 * rank})]))
    mean = math.sqrt((1.0 + 1.1**2) / 2)
    for obs, distance in zip(told, (1.0 - 1.0 / mean, 1.0 - mean / 1.1), strict=True):
        tensor = obs.tensors["weight"]
        differs = {n for n in ("weight", "gradient", "update") if getattr(tensor, n) > 0.0}
        assert differs == {which}
        assert getattr(tensor, which) == pytest.approx(distance)
        assert tensor.early == (which == "weight")


def test_the_process_that_stands_out_is_named_at_the_next_look() -> None:
    told = together([model() for _ in range(5)], [lambda rank: drafts(1.0 + (rank == 3))] * 2)
    assert [obs.farthest for obs in last(told[:1])] == [()] * 5
    assert [obs.farthest for obs in last(told)] == [(3,)] * 5


def test_buffers_are_compared() -> None:
    first, _ = last(together([model(1.0), model(2.0)], [lambda rank: drafts()] * 2))
    assert set(first.tensors) == {"seen"}
    assert (first.tensors["seen"].kind, first.tensors["seen"].changes) == ("buffer", False)


def test_a_buffer_that_moves_is_known_to() -> None:
    models = [model(1.0), model(2.0)]

    def look(rank: int) -> Any:
        models[rank].seen += 0.1
        return drafts()

    first, _ = last(together(models, [look] * 3))
    assert first.tensors["seen"].changes


def test_what_comes_late_is_compared_too() -> None:
    models = [model(), model()]

    def look(rank: int) -> Any:
        models[rank].register_buffer("late", torch.full((3,), 1.0 + rank))
        return drafts()

    first, _ = last(together(models, [look] * 2))
    assert set(first.tensors) == {"late"}


def test_what_the_strategy_leaves_out_is_not_compared() -> None:
    first, _ = last(
        together([model(1.0), model(2.0)], [lambda rank: drafts(1.0 + rank)], lambda name: False)
    )
    assert (first.tensors, first.compared) == ({}, 0)


def test_models_of_other_shapes_are_not_compared() -> None:
    other = nn.Linear(3, 2, bias=False)
    other.register_buffer("other", torch.zeros(1))
    taps = [
        RankTap(net, Board(2).seat(0), lambda name: True, 0)._offered for net in (model(), other)
    ]
    assert taps[0].fingerprint != taps[1].fingerprint


def test_the_same_batches_are_grouped() -> None:
    def look(rank: int) -> Any:
        return drafts(whole=1.0 + rank // 2, targets=float("nan"))

    obs = last(together([model() for _ in range(4)], [look]))[0]
    assert obs.same_batch == ((0, 1), (2, 3))
    assert obs.same_targets == ()


# -- sharded models -------------------------------------------------------------------------------


def llama(layers: int, width: int, hidden: int, keys: int, words: int, mesh: Any) -> nn.Module:
    """Return the parameters of a large language model, sharded and without memory."""
    shapes = {
        "q": (width, width),
        "k": (keys, width),
        "v": (keys, width),
        "o": (width, width),
        "gate": (hidden, width),
        "up": (hidden, width),
        "down": (width, hidden),
        "norm1": (width,),
        "norm2": (width,),
    }
    root = nn.Module()
    root.embedding = _parameter((words, width), mesh)
    root.head = _parameter((words, width), mesh)
    root.blocks = nn.ModuleList(nn.Module() for _ in range(layers))
    for block in root.blocks:
        for name, shape in shapes.items():
            block.register_parameter(name, _parameter(shape, mesh))
    return root


def _parameter(shape: tuple[int, ...], mesh: Any) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(shape, device="meta"))
    parameter.placements = (Shard(0),)  # type: ignore[attr-defined]
    parameter.device_mesh = mesh  # type: ignore[attr-defined]
    return parameter


def at_scale(size: int, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, list[list[float]]]:
    """Make two looks at a model of 70 billion parameters as one of many processes."""
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: size)
    net = llama(80, 8192, 28672, 1024, 128_256, SimpleNamespace(shape=(size,)))
    rows: list[list[float]] = []

    def sum_(row: Sequence[float]) -> Any:
        rows.append(list(row))
        return SimpleNamespace(arrived=True, take=lambda patience: [size * n for n in row])

    seat: Any = SimpleNamespace(rank=0, size=size, sum=sum_)
    tap = RankTap(net, seat, lambda name: False, part=0)
    tap.start()
    for step in range(2):
        tap.begin(Ledger())
        names = [name for name, _ in net.named_parameters()]
        gradients = Drafts({name: [1.0] * GRADIENT_SHARES for name in names})
        updates = Drafts({name: [1.0] * UPDATE_SHARES for name in names})
        tap.send(step, 0, [gradients], [updates], Batchmark(), cost=0.0)
        tap.take()
    return net, rows


def test_seventy_billion_parameters_on_a_thousand_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, rows = at_scale(1000, monkeypatch)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(70e9, rel=0.02)
    assert len(rows) == 3  # one to agree on the tensors, and one for each look
    tensors = len(list(net.parameters()))
    numbers = 7 * 1000 + 12 * tensors + 1
    assert [len(row) for row in rows[1:]] == [numbers] * 2
    assert 8 * numbers < 150_000  # bytes


def test_rows_grow_by_the_same_for_each_process_and_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [len(at_scale(size, monkeypatch)[1][-1]) for size in (1, 101, 201)]
    assert lengths[2] - lengths[1] == lengths[1] - lengths[0] == 700


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    mesh = SimpleNamespace(shape=(2,))
    models = []
    for _ in range(2):
        net = nn.Module()
        net.register_parameter("weight", _parameter((4, 2), mesh))
        models.append(net)
    given = [
        (Drafts({"weight": [float(rank + 1)] * 7}), Drafts({"weight": [10.0 * rank] * 5}))
        for rank in range(2)
    ]
    together(models, [lambda rank: (*given[rank], Batchmark())])
    for gradients, updates in given:
        assert gradients.numbers["weight"] == (3.0,) * 7
        assert updates.numbers["weight"] == (10.0,) * 5
