"""Promise 3: between looks nothing is read, at a look everything is read at once."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import ActivationStats, DebugSuite, GradientNorms, UpdateRatios
from lightning_debug.observation import (
    Activations,
    Gradients,
    Losses,
    ModuleCall,
    Observation,
    ParameterGradient,
    ParameterUpdate,
    Updates,
    WholeLoss,
)
from lightning_debug.observer import Observer
from lightning_debug.schedule import Schedule
from lightning_debug.session import Session
from lightning_debug.sinks.memory import Memory
from lightning_debug.taps.transfer import Ledger
from tests.build_observations import loss_calls
from tests.runs import Program, digits, quiet_trainer
from tests.test_no_trace import network

READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero"}


class CountOps(TorchDispatchMode):
    """Counts operators, and reads by the host, for each training step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = -1
        self.ops: Counter[int] = Counter()
        self.reads: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.ops[self.step] += 1
        self.reads[self.step] += name in READS
        return func(*args, **(kwargs or {}))


class Watch(pl.Callback):
    def __init__(self, counter: CountOps) -> None:
        self.counter = counter

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.counter.step = trainer.global_step

    def on_train_batch_end(self, *args: Any) -> None:
        self.counter.step = -1


def count(callbacks: list[pl.Callback], data: Any = None) -> CountOps:
    pl.seed_everything(0, verbose=False)
    counter = CountOps()
    # Ours run between the two halves of the counter.
    trainer = quiet_trainer(
        max_epochs=4, callbacks=[Watch(counter), *callbacks], enable_progress_bar=False
    )
    trainer.callbacks.append(Watch(counter))
    with counter:
        trainer.fit(Program(network()), data or digits(flat=False, n=640))
    return counter


@pytest.fixture(scope="module")
def bare() -> CountOps:
    return count([])


def test_between_looks_no_operator_runs_and_nothing_is_read(bare: CountOps) -> None:
    watched = count([DebugSuite(debug=True, preflight=False, sinks=[])])
    extra = {step: watched.ops[step] - bare.ops[step] for step in range(80)}
    # Keeping the loss takes one detach.
    quiet = [step for step, more in extra.items() if more <= 1]
    assert len(quiet) > 50
    assert sum(watched.reads[s] - bare.reads[s] for s in range(80)) == 0


def test_experiments_are_made_twice_and_cost_nothing_in_between(bare: CountOps) -> None:
    watched = count([DebugSuite(debug=True, sinks=[])])
    dear = [step for step in range(80) if watched.reads[step] > bare.reads[step]]
    assert dear == [0, 40]  # before the first of 80 updates, and half way
    # Batches that are kept for the end of the run are copied; the first are looked at anyway.
    assert sum(watched.ops[step] - bare.ops[step] <= 1 for step in range(80)) > 50


def test_the_search_for_a_bad_batch_reads_nothing() -> None:
    x, y = digits(flat=False, n=640).dataset.tensors  # type: ignore[attr-defined]
    x = x.clone()
    x[::50] = math.nan
    data = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    bare, suite = count([], data), DebugSuite(debug=True, preflight=False, sinks=[])
    watched = count([suite], data)
    assert "non-finite-input" in {finding.name for finding in suite.findings}
    assert sum(watched.reads[s] - bare.reads[s] for s in range(80)) == 0


def test_switched_off_nothing_runs(bare: CountOps) -> None:
    off = count([DebugSuite(debug=False)])
    assert [off.ops[step] for step in range(80)] == [bare.ops[step] for step in range(80)]


def test_one_copy_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: Counter[str] = Counter()
    for name in ("send", "settle"):
        original = getattr(Ledger, name)

        def spy(self: Ledger, name: str = name, original: Any = original) -> None:
            settled[name] += 1
            original(self)

        monkeypatch.setattr(Ledger, name, spy)
    quiet_trainer(max_epochs=1, callbacks=[DebugSuite(debug=True, sinks=[])]).fit(
        Program(network()), digits(flat=False, n=320)
    )
    # Ten batches, all of them looks; one before the first step.
    assert settled == {"send": 11, "settle": 11}


def test_sections_in_one_trainer_share_hooks_and_measurements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Observation] = []
    original = Session.observe
    monkeypatch.setattr(Session, "observe", lambda s, o: (shown.append(o), original(s, o)))
    built: list[Observer] = []
    init = Observer.__init__
    monkeypatch.setattr(
        Observer, "__init__", lambda self, *a, **k: (built.append(self), init(self, *a, **k))[1]
    )
    sections = [
        ActivationStats(sinks=[]),
        GradientNorms(),
        UpdateRatios(every_n_steps=5),
        DebugSuite(),
    ]
    quiet_trainer(max_epochs=1, callbacks=sections).fit(
        Program(network()), digits(flat=False, n=320)
    )
    kinds = Counter((type(o).__name__, o.step) for o in shown)
    assert len(built) == 1
    assert set(kinds.values()) == {1}
    assert sum(1 for name, _ in kinds if name == "Activations") == 10


def test_what_no_check_asks_for_is_not_measured() -> None:
    session = Session(UpdateRatios().checks)
    assert not session.wants(Activations)


class CountCalls(pl.Callback):
    """Counts our own Python calls in one step, from its start to that of the next."""

    def __init__(self, step: int) -> None:
        self._at = step
        self.calls = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        sys.setprofile(self._count if trainer.global_step == self._at else None)

    def on_train_epoch_end(self, *args: Any) -> None:
        sys.setprofile(None)

    def _count(self, frame: Any, event: str, arg: object) -> None:
        name = frame.f_globals.get("__name__", "")
        self.calls += event == "call" and name.startswith("lightning_debug")


def test_a_step_without_a_look_makes_a_few_calls_whatever_the_number_of_layers() -> None:
    def calls(layers: int) -> int:
        blocks = [m for _ in range(layers) for m in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
        program = Program(torch.nn.Sequential(*blocks, torch.nn.Linear(64, 10)))
        counter = CountCalls(14)  # looks are made at 13 and 16
        suite = DebugSuite(preflight=False, sinks=[], every_n_steps=50)
        quiet_trainer(max_epochs=1, limit_train_batches=16, callbacks=[counter, suite]).fit(
            program, digits()
        )
        return counter.calls

    assert calls(2) == calls(40) < 130


@pytest.mark.slow
def test_memory_is_bounded_over_a_hundred_thousand_simulated_looks() -> None:
    session = Session(DebugSuite(sinks=[Memory()]).checks, [Memory()])
    rng = random.Random(0)

    def look(step: int) -> None:
        size = rng.lognormvariate(0.0, 3.0)  # everything flaps, so everything is told
        gradient = ParameterGradient(norm=size, largest=size, rms=size, present=size < 5.0)
        session.observe(Activations(step=step, modules=(ModuleCall(place="a", rms=size),)))
        session.observe(Losses(step=step, values=((step, size),)))
        session.observe(loss_calls(step=step, value=size, whole=WholeLoss(value=-size)))
        session.observe(Gradients(step=step, optimizer="SGD", parameters={"a.weight": gradient}))
        update = ParameterUpdate(update_rms=size, moved=size < 1.0)
        session.observe(Updates(step=step, optimizer="SGD", parameters={"a.weight": update}))
        session.end_look(step, 0)

    def largest(start: int, end: int) -> int:
        sizes = []
        for step in range(start, end):
            look(step)
            if step % 500 == 0:
                sizes.append(_size(session))
        return max(sizes)

    before = largest(0, 2_000)
    assert largest(2_000, 100_000) <= 1.05 * before


def test_the_taps_keep_nothing_from_look_to_look() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    session = Session(DebugSuite(sinks=[]).checks)
    observer = Observer(model, [optimizer], session, Schedule(1))
    observer.start(0, 0)
    batch = torch.randn(8, 2)

    def look(step: int) -> None:
        observer.batch_start(batch, 0, step, 0, updates=True)
        loss = model(batch).square().mean()
        observer.before_backward(loss, loss.detach())
        loss.backward()
        observer.after_backward()
        observer.before_optimizer_step(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        observer.batch_end(loss, step + 1)

    def own() -> int:
        return _size(observer) - _size(session)  # the checks keep a curve, of bounded length

    for step in range(200):
        look(step)
    before = own()
    for step in range(200, 400):
        look(step)
    assert own() == pytest.approx(before, rel=0.05)


def test_a_compiled_model_is_seen_and_not_compiled_again() -> None:
    graphs: list[object] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def program() -> Program:
        net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        torch.nn.init.constant_(net[0].bias, -50.0)
        return Program(torch.compile(net, backend=backend))

    torch._dynamo.reset()
    quiet_trainer().fit(program(), digits())
    bare = len(graphs)
    torch._dynamo.reset()
    suite = DebugSuite(sinks=[])
    quiet_trainer(callbacks=[suite]).fit(program(), digits())
    assert len(graphs) == 2 * bare
    assert "dead-relu" in {finding.name for finding in suite.findings}


def _size(root: object, seen: set[int] | None = None) -> int:
    """Count the objects that can be reached through our own attributes and containers."""
    seen = set() if seen is None else seen
    if id(root) in seen or isinstance(root, (str, int, float, torch.Tensor, torch.nn.Module)):
        return 0
    seen.add(id(root))
    children: list[object] = []
    if isinstance(root, dict):
        children = [*root.keys(), *root.values()]
    elif isinstance(root, (list, tuple, set)) or type(root).__name__ == "deque":
        children = list(root)  # type: ignore[call-overload]
    elif type(root).__module__.startswith("lightning_debug"):
        children = [getattr(root, n, None) for n in getattr(root, "__slots__", ())]
        children += list(getattr(root, "__dict__", {}).values())
    return 1 + sum(_size(child, seen) for child in children)
