"""Every shape of a training loop: silent and traceless where it is healthy, and not blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_debug import DebugSuite
from lightning_debug.sinks.memory import Memory
from tests.real.twin_runs import watched
from tests.runs import Program, alarms, digits, fit, names
from tests.test_no_trace import attached

few = partial(digits, n=160, batch=16)


def cases(named: dict[str, Any], *slow: str) -> list[Any]:
    """Return parameters of a test by their names, of which some are left to the slow tests."""
    assert set(slow) <= named.keys()
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name,
            marks=[pytest.mark.slow] if name in slow else [],
        )
        for name, case in named.items()
    ]


def held_out(batch: int = 16) -> DataLoader[Any]:
    """Digits that are in no training data here."""
    x, y = digits(n=1600).dataset.tensors
    return DataLoader(TensorDataset(x[1536:], y[1536:]), batch_size=batch)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def with_dead_relu() -> nn.Module:
    net = mlp()
    nn.init.constant_(net[0].bias, -50.0)
    return net


class Plain(Program):
    def __init__(self, net: Callable[[], nn.Module] = mlp) -> None:
        super().__init__(net())

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))

    test_step = validation_step

    def predict_step(self, batch: Any) -> Tensor:
        return self(batch[0])


class Manual(Plain):
    """Optimizes by hand.

    Args:
        net: Makes the network.
        raw: Whether the optimizer is asked for without Lightning's wrapper.
        every: Batches between two steps.
    """

    def __init__(
        self, net: Callable[[], nn.Module] = mlp, raw: bool = False, every: int = 1
    ) -> None:
        super().__init__(net)
        self.automatic_optimization = False
        self.raw, self.every = raw, every

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=not self.raw)
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()


class Gan(pl.LightningModule):
    def __init__(self, raw: bool = False, dead: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.raw = raw
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        if dead:
            nn.init.constant_(self.generator[0].bias, -50.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0]
        generator, critic = self.optimizers(use_pl_optimizer=not self.raw)
        fake = self.generator(torch.randn(len(real), 8))
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        score = F.binary_cross_entropy_with_logits
        for optimizer, loss in (
            (
                critic,
                lambda: score(self.critic(real), ones) + score(self.critic(fake.detach()), zeros),
            ),
            (generator, lambda: score(self.critic(fake), ones)),
        ):
            self.toggle_optimizer(optimizer)
            value = loss()
            optimizer.zero_grad()
            self.manual_backward(value)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
        return [adam(self.generator.parameters()), adam(self.critic.parameters())]


class Sam(torch.optim.Optimizer):
    """Two passes a step: climb, look at the gradient there, come back, descend."""

    def __init__(self, parameters: Any, lr: float = 0.05, rho: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        climbs = [self.defaults["rho"] * p.grad / (norm + 1e-12) for p in parameters]
        torch._foreach_add_(parameters, climbs)
        with torch.enable_grad():
            closure()
        torch._foreach_sub_(parameters, climbs)
        torch._foreach_add_(parameters, [-self.defaults["lr"] * p.grad for p in parameters])
        return loss


class WithOptimizer(Plain):
    def __init__(self, optimizer: Callable[..., Any], net: Callable[[], nn.Module] = mlp) -> None:
        super().__init__(net)
        self.optimizer = optimizer


class Truncated(pl.LightningModule):
    """Back-propagation through time in pieces, the hidden state kept and detached."""

    def __init__(self, dead: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cell = nn.GRUCell(8, 16)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
        if dead:
            nn.init.constant_(self.head[0].bias, -50.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        hidden = torch.zeros(len(x), 16)
        for rows in x.view(-1, 8, 8).split(4, dim=1):
            for row in rows.unbind(1):
                hidden = self.cell(row, hidden)
            loss = F.cross_entropy(self.head(hidden), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            hidden = hidden.detach()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Answers(Plain):
    """Gives what its function makes of the loss: nothing, a dictionary, something now and then."""

    def __init__(
        self, answer: Callable[[Tensor, int], Any], net: Callable[[], nn.Module] = mlp
    ) -> None:
        super().__init__(net)
        self.answer = answer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.answer(super().training_step(batch, batch_idx), batch_idx)


LOOPS = {
    "manual": Manual,
    "raw": partial(Manual, raw=True),
    "manual, accumulated": partial(Manual, every=3),
    "raw, accumulated": partial(Manual, raw=True, every=3),
    "lbfgs": partial(WithOptimizer, partial(torch.optim.LBFGS, lr=0.1, max_iter=4)),
    "sam": partial(WithOptimizer, Sam),
    "skips": partial(Answers, lambda loss, i: None if i % 3 == 1 else loss),
    "dictionary": partial(Answers, lambda loss, i: {"loss": loss, "more": ["x", None]}),
}


def found(make: Callable[[], pl.LightningModule], epochs: int = 2, **settings: Any) -> set[str]:
    """Return what is found without experiments, which see most bugs whatever the loop does."""
    return names(
        fit(make, few(), suite=DebugSuite(preflight=False, sinks=[]), epochs=epochs, **settings)
    )


@pytest.mark.parametrize("make", cases(LOOPS, "manual", "manual, accumulated", "lbfgs"))
def test_a_loop_is_left_alone_and_its_bug_is_found(make: Any) -> None:
    assert alarms(watched(make, few)) == []
    assert "dead-relu" in found(partial(make, net=with_dead_relu), epochs=3)


@pytest.mark.parametrize(
    "make", cases({"GAN": Gan, "raw GAN": partial(Gan, raw=True), "truncated": Truncated}, "GAN")
)
def test_several_steps_in_a_batch(make: Any) -> None:
    assert alarms(watched(make, few)) == []
    assert found(partial(make, dead=True)) & {"dead-relu", "zero-gradient"}


def test_steps_that_lightning_does_not_count_are_counted() -> None:
    before, memory = attached(), Memory()
    suite = DebugSuite(preflight=False, every_n_steps=5, sinks=[memory])
    fit(partial(Manual, raw=True, every=2), few(), suite=suite)
    steps = [step for step, _ in memory.scalars]
    assert steps == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert attached() == before


@dataclass
class Sample:
    x: Tensor
    y: Tensor
    name: str = "digit"


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Graph:
    """Knows its tensors by attributes, and how to move them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.names = x, y, ["a", None]

    def to(self, *args: Any, **kwargs: Any) -> Graph:
        return Graph(self.x.to(*args, **kwargs), self.y.to(*args, **kwargs))


class Opaque:
    """Cannot be moved, has slots, and compares by value."""

    __slots__ = ("x", "y")

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError

    __hash__ = None  # type: ignore[assignment]


class Dictlike:
    """A dictionary of tensors with a batch size, as TensorDict is."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    @property
    def batch_size(self) -> torch.Size:
        return torch.Size([len(self.tensors["x"])])

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, str):
            return self.tensors[name]
        return Dictlike(**{key: value[name] for key, value in self.tensors.items()})

    def keys(self) -> Any:
        return self.tensors.keys()

    def __len__(self) -> int:
        return self.batch_size[0]

    def to(self, *args: Any, **kwargs: Any) -> Dictlike:
        return Dictlike(**{k: v.to(*args, **kwargs) for k, v in self.tensors.items()})


def ragged(x: Tensor, y: Tensor) -> Any:
    return [row[: 40 + i % 5] for i, row in enumerate(x)], y


def from_ragged(batch: Any) -> Any:
    rows, y = batch
    return torch.stack([F.pad(row, (0, 64 - len(row))) for row in rows]), y


def packed(x: Tensor, y: Tensor) -> Any:
    lengths = [8 - i % 3 for i in range(len(x))]
    return pack_sequence([r.view(8, 8)[:n] for r, n in zip(x, lengths, strict=True)], False), y


def from_packed(batch: Any) -> Any:
    x, _ = pad_packed_sequence(batch[0], batch_first=True, total_length=8)
    return x.flatten(1), batch[1]


SHAPES: dict[str, tuple[Any, Any]] = {
    "dict": (
        lambda x, y: {"x": x, "y": y, "names": ["a"], "none": None},
        lambda b: (b["x"], b["y"]),
    ),
    "dataclass": (Sample, lambda b: (b.x, b.y)),
    "named tuple": (Pair, lambda b: (b.x, b.y)),
    "nested": (
        lambda x, y: [[x[:8], [x[8:]]], (None, {"y": y})],
        lambda b: (torch.cat([b[0][0], b[0][1][0]]), b[1][1]["y"]),
    ),
    "graph": (Graph, lambda b: (b.x, b.y)),
    "opaque": (Opaque, lambda b: (b.x, b.y)),
    "like a dict": (lambda x, y: Dictlike(x=x, y=y), lambda b: (b["x"], b["y"])),
    "ragged": (ragged, from_ragged),
    "packed": (packed, from_packed),
    "compressed": (lambda x, y: (x.to_sparse_csr(), y), lambda b: (b[0].to_dense(), b[1])),
    "numpy": (lambda x, y: (x.numpy(), y.numpy()), lambda b: tuple(map(torch.from_numpy, b))),
    "nested tensor": (
        lambda x, y: (torch.nested.nested_tensor(list(x)), y),
        lambda b: (b[0].to_padded_tensor(0.0), b[1]),
    ),
    "jagged tensor": (
        lambda x, y: (torch.nested.nested_tensor(list(x), layout=torch.jagged), y),
        lambda b: (b[0].to_padded_tensor(0.0), b[1]),
    ),
    "sparse": (lambda x, y: (x.to_sparse(), y), lambda b: (b[0].to_dense(), b[1])),
    "empty parts": (lambda x, y: (x, y, torch.empty(0, 4), [], {}, ""), lambda b: b[:2]),
    "one tensor": (
        lambda x, y: torch.cat([x, y[:, None]], 1),
        lambda b: (b[:, :64], b[:, 64].long()),
    ),
    "strings": (
        lambda x, y: ([" ".join(map(str, row.tolist())) for row in x], y),
        lambda b: (torch.tensor([[float(w) for w in row.split()] for row in b[0]]), b[1]),
    ),
}


class Unpacks(Plain):
    def __init__(self, unpack: Callable[[Any], Any], net: Callable[[], nn.Module] = mlp) -> None:
        super().__init__(net)
        self.unpack = unpack

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(self.unpack(batch), batch_idx)


def shaped(shape: Callable[[Tensor, Tensor], Any]) -> DataLoader[Any]:
    loader = few()
    x, y = loader.dataset.tensors
    samples: Any = list(zip(x, y, strict=True))

    def collate(chosen: Any) -> Any:
        xs, ys = zip(*chosen, strict=True)
        return shape(torch.stack(xs), torch.stack(ys))

    return DataLoader(samples, batch_size=16, shuffle=True, collate_fn=collate)


@pytest.mark.parametrize(
    ("shape", "unpack"),
    cases(SHAPES, "dict", "named tuple", "nested", "numpy", "strings", "one tensor", "empty parts"),
)
def test_batches_of_any_shape(shape: Any, unpack: Any) -> None:
    assert alarms(watched(partial(Unpacks, unpack), partial(shaped, shape), epochs=1)) == []
    dead = fit(
        partial(Unpacks, unpack, with_dead_relu),
        shaped(shape),
        suite=DebugSuite(preflight=False, sinks=[]),
    )
    assert "dead-relu" in names(dead)


def test_data_are_judged_inside_of_an_object() -> None:
    def same(x: Tensor, y: Tensor) -> Graph:
        return Graph(x[:1].expand(len(x), -1).clone(), y)

    make = partial(Unpacks, SHAPES["graph"][1])
    suite = fit(make, shaped(same), suite=DebugSuite(preflight=False, sinks=[]))
    assert "constant-input" in names(suite)


def graphs(count: int) -> Graphs:
    """Graphs of different sizes, joined to one; the first feature tells the class."""
    sizes = torch.randint(5, 12, (count,))
    nodes = torch.randn(int(sizes.sum()), 6)
    graph = torch.arange(count).repeat_interleave(sizes)
    starts = sizes.cumsum(0) - sizes
    ends = [
        int(at) + torch.randint(int(n), (2, 3 * int(n)))
        for at, n in zip(starts, sizes, strict=True)
    ]
    means = torch.zeros(count).index_add(0, graph, nodes[:, 0]) / sizes
    return Graphs(nodes, torch.cat(ends, 1), graph, (means > 0).long())


class Graphs:
    """Many small graphs: nodes, edges, whose the nodes are, and a class each."""

    def __init__(self, nodes: Tensor, edges: Tensor, graph: Tensor, y: Tensor) -> None:
        self.nodes, self.edges, self.graph, self.y = nodes, edges, graph, y


class Network(pl.LightningModule):
    """Passes messages, and averages over the nodes of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def training_step(self, batch: Graphs, batch_idx: int) -> Tensor:
        source, target = batch.edges
        hidden = torch.relu(self.enter(batch.nodes))
        hidden = hidden + torch.zeros_like(hidden).index_add(0, target, hidden[source]) / 3
        hidden = torch.relu(self.inner(hidden))
        sums = torch.zeros(len(batch.y), 16).index_add(0, batch.graph, hidden)
        means = sums / torch.bincount(batch.graph)[:, None]
        return F.cross_entropy(self.head(means), batch.y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def test_batches_of_graphs() -> None:
    assert alarms(watched(Network, lambda: Kept(graphs(16) for _ in range(20)))) == []


class Stream(IterableDataset[Any]):
    """Samples one by one, with a length or without, for ever or once."""

    def __init__(self, endless: bool = False) -> None:
        self.data, self.endless = few().dataset, endless

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from (self.data[int(i)] for i in torch.randperm(len(self.data)))
            if not self.endless:
                return


class Sized(Stream):
    def __len__(self) -> int:
        return len(self.data)


class Endless:
    """An iterable of batches that is no loader, and never ends."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from few()


class Kept:
    """Batches with a length and nothing else."""

    def __init__(self, batches: Any) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[int(i)] for i in torch.randperm(len(self.batches)))


DATA: dict[str, tuple[Any, dict[str, Any]]] = {
    "stream": (lambda: DataLoader(Stream(), batch_size=16), {}),
    "stream with a length": (lambda: DataLoader(Sized(), batch_size=16), {}),
    "endless stream": (
        lambda: DataLoader(Stream(endless=True), batch_size=16),
        {"max_steps": 20, "max_epochs": -1},
    ),
    "no loader": (Endless, {"max_steps": 20, "limit_train_batches": 7}),
    "batches that are kept": (lambda: Kept(few()), {}),
}


@pytest.mark.parametrize(("data", "settings"), cases(DATA, "stream"))
def test_data_of_any_length(data: Any, settings: dict[str, Any]) -> None:
    assert alarms(watched(Plain, data, settings=lambda: settings)) == []


@pytest.mark.parametrize(
    "mode", [pytest.param("min_size", marks=pytest.mark.slow), "max_size", "max_size_cycle"]
)
def test_combined_loaders(mode: str) -> None:
    def unpack(batch: Any) -> Any:
        parts = [part for part in batch.values() if part is not None]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def data() -> CombinedLoader:
        return CombinedLoader({"big": few(), "small": digits(n=100, batch=8)}, mode)

    suite = watched(
        partial(Unpacks, unpack), data, validation=lambda: [held_out(), held_out(batch=8)]
    )
    assert alarms(suite) == []


SETTINGS: dict[str, dict[str, Any]] = {
    "few batches": {"limit_train_batches": 3, "limit_val_batches": 1, "num_sanity_val_steps": -1},
    "parts of an epoch": {"limit_train_batches": 0.5, "val_check_interval": 0.5},
    "no training batches": {"limit_train_batches": 0},
    "no validation batches": {"limit_val_batches": 0, "deterministic": True},
    "validation beyond the epoch": {"val_check_interval": 15, "check_val_every_n_epoch": None},
    "rare validation": {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
    "the same batches": {"overfit_batches": 2},
    "a smoke run": {"fast_dev_run": True},
    "no steps": {"max_steps": 0},
    "no epochs": {"max_epochs": 0},
    "least steps": {"min_steps": 25, "max_epochs": 1},
    "loaders made anew": {"reload_dataloaders_every_n_epochs": 1, "log_every_n_steps": 1},
    "barebones": {"barebones": True},
    "anomaly detection": {"detect_anomaly": True, "inference_mode": False},
    "accumulation": {"accumulate_grad_batches": 4, "max_epochs": 3},
}


@pytest.mark.parametrize(
    "settings",
    cases(
        SETTINGS,
        *("anomaly detection", "accumulation", "least steps", "rare validation"),
        *("no validation batches", "the same batches"),
    ),
)
def test_settings_of_the_trainer(settings: dict[str, Any]) -> None:
    suite = watched(Plain, few, validation=held_out, settings=lambda: settings)
    assert alarms(suite) == []


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"max_steps": 0}, {"limit_train_batches": 0}])
def test_a_run_without_steps_is_not_called_interrupted(settings: dict[str, Any]) -> None:
    memory = Memory()
    fit(Plain, few(), suite=DebugSuite(sinks=[memory]), **settings)
    assert memory.status == "completed"
    assert memory.scalars == []


class TakesTheIterator(Plain):
    """Fetches its batches itself: one, or two at a time."""

    def training_step(self, dataloader_iter: Any) -> Any:
        batch, *_ = next(dataloader_iter)
        if self.global_step % 3 == 2:
            batch, *_ = next(dataloader_iter)
        x, y = batch
        return self.loss(self(x), y)


class OwnOptimizer(Plain):
    """Keeps its optimizer to itself."""

    def __init__(self, net: Callable[[], nn.Module] = mlp) -> None:
        super().__init__(net)
        self.automatic_optimization = False
        self.own = torch.optim.Adam(self.parameters(), lr=1e-3)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.own.zero_grad()
        super().training_step(batch, batch_idx).backward()
        self.own.step()

    def configure_optimizers(self) -> None:
        return None


class Overrides(Plain):
    """Warms up, clips, goes back, clears gradients and steps schedulers by methods of its own."""

    def backward(self, loss: Tensor) -> None:
        loss.backward(retain_graph=True)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (self.global_step + 1) / 5)
        optimizer.step(closure=closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=5.0, gradient_clip_algorithm="norm")


class Alternates(Plain):
    """Two optimizers, each of which steps in every second batch, one of them by a closure."""

    def __init__(self, net: Callable[[], nn.Module] = mlp) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.optimizers()[batch_idx % 2]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = super(Alternates, self).training_step(batch, batch_idx)
            self.manual_backward(loss)
            return loss

        if batch_idx % 2:
            return optimizer.step(closure=closure)
        loss = closure()
        optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam(self.net[0].parameters(), lr=1e-3)
        return adam, torch.optim.SGD(self.net[2].parameters(), lr=1e-1, momentum=0.9)


@pytest.mark.parametrize("make", [TakesTheIterator, OwnOptimizer, Overrides, Alternates])
def test_steps_of_ones_own(make: Any) -> None:
    assert alarms(watched(make, few)) == []
    assert found(partial(make, with_dead_relu), epochs=3) & {"dead-relu", "zero-gradient"}


class Counts(pl.LightningModule):
    """Has nothing to train: it goes through the data and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen += len(batch[0])

    def configure_optimizers(self) -> None:
        return None


def test_nothing_to_train() -> None:
    assert alarms(watched(Counts, few)) == []


def test_a_step_that_returns_nothing_is_told() -> None:
    assert "weights-not-updated" in found(partial(Answers, lambda loss, index: None))
