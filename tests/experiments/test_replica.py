"""A copy that can be run, and nothing of the original that changes."""

import copy
import gc
import random
import weakref
from collections import deque

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.experiments import replica as replicas
from lightning_debug.experiments.batches import duplicate, samples, take
from lightning_debug.experiments.calls import Recorder
from lightning_debug.experiments.replica import NotApplicableError, Replica
from tests.runs import Program, digits, quiet_trainer
from tests.worst import Worst


def state(model):
    """Return all that a run of the training step would change."""
    return copy.deepcopy(
        [
            {k: v.tolist() for k, v in model.state_dict().items()},
            [module.training for module in model.modules()],
            [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
            model.generator.get_state().tolist(),
            model.numeric.bit_generator.state,
            model.plain.getstate(),
            model.stream.__reduce__()[1:],
            (len(model.history), model.seen, len(model.features)),
            torch.get_rng_state().tolist(),
            random.getstate(),
            str(np.random.get_state()),
            torch.get_default_dtype(),
        ]
    )


class Trial(pl.Callback):
    """Makes a replica before the second step and does something with it."""

    def __init__(self, act):
        self.act, self.result = act, None

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 1:
            self.result = self.act(trainer, module, batch)


def trial(act, model=None):
    callback = Trial(act)
    trainer = quiet_trainer(callbacks=[callback], limit_train_batches=2, max_epochs=1)
    trainer.fit(model or Worst(), digits(flat=False))
    return callback.result


def test_it_runs_and_leaves_no_trace(capsys):
    def act(trainer, module, batch):
        before, x = state(module), batch[0].clone()
        replica = Replica(module, trainer.optimizers)
        with replica.working():
            losses = [replica.losses(take(batch, 4))[0] for _ in range(2)]
            losses[1].backward()
            replica.evaluating = True
            with Recorder(replica) as recorder:
                replica.losses(take(batch, 4))
        assert state(module) == before
        assert torch.equal(batch[0], x)
        return losses, [(call.path, call.depth) for call in recorder.calls]

    (first, again), calls = trial(act)
    assert first.dtype is torch.float64
    assert first == again
    assert calls[:2] == [("net", 0), ("net.0", 1)]
    assert capsys.readouterr().out.count("a line a step") == 2


def test_the_copy_is_cut_off_from_trainer_and_optimizers():
    class Manual(Worst):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            self.toggle_optimizer(optimizer)
            self.trainer.should_stop = self.trainer.global_step < 0
            loss = super().training_step(batch, batch_idx)["loss"]
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1.0)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def act(trainer, module, batch):
        before, steps = state(module), trainer.global_step
        replica = Replica(module, trainer.optimizers)
        with replica.working():
            found = replica.losses(batch)
        assert (state(module), trainer.global_step) == (before, steps)
        return found

    assert len(trial(act, Manual())) == 1


def test_a_tensor_of_the_original_is_never_touched():
    class Escaping(Worst):
        def __init__(self):
            super().__init__()
            weights = [self.net[1]]  # reached through a default argument, which is not copied

            def normed(x, modules=tuple(weights)):
                return modules[0](x)

            self.normed = normed

        def training_step(self, batch, batch_idx):
            x, y = batch
            h = self.normed(self.net[0](x))
            return F.cross_entropy(self.head(h.flatten(1)), y)

    def act(trainer, module, batch):
        before = state(module)
        replica = Replica(module, trainer.optimizers)
        with replica.working(), pytest.raises(NotApplicableError, match="cannot be copied"):
            replica.losses(batch)
        return state(module) == before

    assert trial(act, Escaping())


def test_large_data_are_not_copied_one_by_one():
    class Loaded(Worst):
        def __init__(self):
            super().__init__()
            self.texts = [{"text": str(i)} for i in range(50_000)]
            self.replay = deque([torch.zeros(2)], maxlen=10)

        def training_step(self, batch, batch_idx):
            self.texts.append({"text": "more"})
            self.replay.append(torch.ones(2))
            return super().training_step(batch, batch_idx)

    def act(trainer, module, batch):
        replica = Replica(module, trainer.optimizers)
        with replica.working():
            replica.losses(batch)
        assert replica.module.texts[0] is module.texts[0]
        return len(module.texts), len(module.replay)

    assert trial(act, Loaded()) == (50_001, 2)


class Graph:
    """A batch class that keeps its tensors out of sight."""

    def __init__(self, **tensors):
        self.store = dict(tensors)


def test_a_batch_of_any_class_stays_as_it_is():
    class Writing(Worst):
        def training_step(self, batch, batch_idx):
            if isinstance(batch, Graph):
                batch.store["x"] = batch.store["x"] + 1
                batch.store["y"].zero_()
                batch = batch.store["x"].to(self.head.weight.dtype), batch.store["y"]
            return super().training_step(batch, batch_idx)

    def act(trainer, module, batch):
        graph = Graph(x=batch[0].clone(), y=batch[1].clone())
        replica = Replica(module, trainer.optimizers)
        with replica.working():
            replica.losses(graph)
        return torch.equal(graph.store["x"], batch[0]) and torch.equal(graph.store["y"], batch[1])

    assert trial(act, Writing())


def test_memory_is_checked_first(monkeypatch):
    monkeypatch.setattr(replicas, "_free_memory", lambda device: 1000.0)
    with pytest.raises(NotApplicableError, match="GiB"):
        Replica(Worst())


def test_a_failing_step_says_why():
    class Failing(Worst):
        def training_step(self, batch, batch_idx):
            if batch[0].dtype is torch.float64:
                raise ValueError("only single precision here")
            return super().training_step(batch, batch_idx)

    def act(trainer, module, batch):
        replica = Replica(module, trainer.optimizers)
        with replica.working(), pytest.raises(NotApplicableError, match="only single precision"):
            replica.losses(batch)

    trial(act, Failing())


def test_a_copy_that_is_released_is_gone_at_once():
    def act(trainer, module, batch):
        replica = Replica(module, trainer.optimizers)
        with replica.working():
            replica.losses(batch)
        copied = weakref.ref(replica.module)
        replica.release()
        gc.disable()
        try:
            del replica
            return copied()
        finally:
            gc.enable()

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert trial(act, Program(net)) is None


class Record:
    """A batch class of the user's."""

    def __init__(self, x, names):
        self.x, self.names = x, names


def test_batches_of_any_shape_can_be_cut():
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6)
    batch = {"x": x, "more": (y, ["a", "b", "c", "d", "e", "f"]), "epoch": 3}
    assert samples(batch) == 6
    few = take(batch, 2)
    assert few["x"].shape == (2, 2)
    assert few["more"][1] == ["a", "b"]
    assert few["epoch"] == 3
    assert take([torch.zeros(5, 3), torch.zeros(2, 8)], 2)[0].shape == (5, 3)
    twin = duplicate(Record(x, ["a"]))
    assert torch.equal(twin.x, x)
    assert twin.x is not x
