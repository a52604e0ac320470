"""A step that is made again: what differs, where, and for what."""

import builtins
import datetime
import os
import random
import threading
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.experiments import repeat as experiment
from lightning_debug.experiments import sources as drawing
from lightning_debug.experiments.batches import NotApplicableError
from lightning_debug.experiments.repeat import repeat
from lightning_debug.experiments.replica import Replica
from lightning_debug.experiments.sources import Drawing, Sources
from tests.runs import Program, digits, quiet_trainer
from tests.worst import Worst


class Step(Program):
    """A step that is made of a function."""

    def __init__(self, extra):
        super().__init__(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
        self.extra = extra

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y) + self.extra(logits)


def seen(model):
    """Return what repeating the first step of a model shows."""

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            replica = Replica(module, trainer.optimizers, dtype=None)
            with replica.working():
                found.append(repeat(replica, batch, step=0, epoch=0))

    found = []
    pl.seed_everything(0, verbose=False)
    data = digits(flat=not isinstance(model, Worst))
    quiet_trainer(callbacks=[Look()], limit_train_batches=1, max_epochs=1).fit(model, data)
    return found[0]


def penalty(number):
    return lambda logits: number() * logits.square().mean()


def test_the_same_bit_for_bit():
    for model in (Step(penalty(random.random)), Worst()):
        obs = seen(model)
        assert (obs.losses, obs.change, obs.gradient) == ((), 0.0, 0.0)
        assert obs.summary == "the same loss and gradients, bit for bit"


@pytest.mark.parametrize(
    ("draw", "source"),
    [
        pytest.param(lambda: np.random.default_rng().random(), "entropy", id="default_rng"),
        pytest.param(lambda: np.random.RandomState().rand(), "entropy", id="RandomState"),
        pytest.param(lambda: np.random.seed() or np.random.rand(), "entropy", id="numpy seed"),
        pytest.param(lambda: torch.seed() % 97 + torch.rand(()), "entropy", id="torch seed"),
        pytest.param(lambda: random.Random().random(), "entropy", id="Random"),
        pytest.param(lambda: time.perf_counter() % 1, "clock", id="perf_counter"),
        pytest.param(lambda: time.time_ns() % 97, "clock", id="time_ns"),
        pytest.param(lambda: datetime.datetime.now().second, "clock", id="now"),
        pytest.param(lambda: torch.empty(3).sum(), "memory", id="empty"),
        pytest.param(lambda: hash("text") % 97, "identity", id="hash"),
        pytest.param(lambda: id(object()) % 97, "identity", id="id"),
    ],
)
def test_sources(draw, source):
    obs = seen(Step(penalty(draw)))
    assert (obs.source, obs.place, obs.rounding) == (source, "training_step", False)
    assert obs.line.startswith("test_repeat.py:")
    assert "pytest.param" in obs.code
    assert obs.change > 1e-5
    assert len(obs.losses) == 2


def test_the_module_is_named():
    class Noise(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.from_numpy(np.random.default_rng().normal(size=x.shape)).to(x)

    model = Program(nn.Sequential(nn.Linear(64, 16), nn.Sequential(nn.ReLU(), Noise())))
    assert seen(model).place == "net.1.1"


def test_gradients_alone():
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (1 + 0.1 * np.random.default_rng().random())

    obs = seen(Step(lambda logits: Rounded.apply(logits).square().mean()))
    assert (obs.change, obs.source, obs.place) == (0.0, "entropy", "net.2")
    assert obs.gradient > 1e-3


def test_rounding_is_known():
    obs = seen(Step(penalty(lambda: 1e-8 * np.random.default_rng().random())))
    assert obs.rounding or not obs.losses


def test_a_hidden_state_is_not_taken_for_chance():
    def count(logits, kept=[0]):  # noqa: B006 - a state that nobody finds
        kept[0] += 1
        return kept[0] * logits.square().mean() * (1 + 0 * time.time())

    class Hidden(Step):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + count(self.net[0].weight)

    with pytest.raises(NotApplicableError, match="state"):
        seen(Hidden(lambda logits: 0.0))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        pytest.param(lambda logits: float("nan"), "not finite", id="NaN"),
        pytest.param(lambda logits: [].pop(), "fails on a copy", id="a step that fails"),
    ],
)
def test_not_applicable(extra, reason):
    class Once(Step):
        def training_step(self, batch, batch_idx):
            on_copy = not isinstance(self._trainer, pl.Trainer)
            self.extra = extra if on_copy else (lambda logits: 0.0)
            return super().training_step(batch, batch_idx)

    with pytest.raises(NotApplicableError, match=reason):
        seen(Once(None))


def test_kernels_that_do_not_repeat(monkeypatch):
    """As on a device that sums up in another order each time."""
    ran = experiment._run

    def shaken(*args, **kwargs):
        run = ran(*args, **kwargs)
        run.losses[0] = run.losses[0] * (1 + 2**-22 * next(numbers))
        return run

    numbers = iter(range(100))
    monkeypatch.setattr(experiment, "_run", shaken)
    obs = seen(Step(penalty(lambda: 1.0)))
    assert (obs.rounding, obs.source) == (True, "")
    assert 0 < obs.change < 1e-5


def test_few_runs_are_made(monkeypatch):
    ran, runs = experiment._run, []
    monkeypatch.setattr(experiment, "_run", lambda *a, **k: runs.append(1) or ran(*a, **k))
    seen(Step(penalty(random.random)))
    assert len(runs) == 2
    runs.clear()
    seen(Step(penalty(lambda: np.random.default_rng().random())))
    assert len(runs) == 6


def names():
    """Return all that is replaced while a step draws."""
    homes = [time, datetime, os, random, torch, drawing, builtins]
    return [dict(vars(home)) for home in homes], dict(globals())


def test_everything_is_put_back_and_other_threads_draw_as_ever():
    before, seen_there = names(), []

    def elsewhere():
        seen_there.append(abs(time.time() - now) < 60)
        seen_there.append(type(random.Random(1)) is kind)
        seen_there.append(type(torch.Generator()) is generator)
        seen_there.append(datetime.datetime.now().year > 2000)

    kind, generator, now = random.Random, torch.Generator, time.time()
    module = Step(penalty(random.random))

    def fail():
        with Drawing(Sources(entropy=1, clock=0.0, identity=7), module) as draws:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert time.time() < 1
            assert hash("text") != builtins.hash("text")
            assert isinstance(np.random.default_rng(), np.random.Generator)
            assert isinstance(generator(), torch.Generator)
            assert set(draws.heard) <= {"clock", "identity", "entropy"}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert seen_there == [True] * 4
    assert names() == before
