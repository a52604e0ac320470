"""What a step keeps outside of its parameters comes back, and is never the original's."""

import csv
import enum
import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug import DebugSuite
from lightning_debug.experiments.batches import NotApplicableError
from lightning_debug.experiments.replica import Replica
from lightning_debug.experiments.state import Contents
from tests.runs import Program, digits, quiet_trainer

BANK = deque(maxlen=64)
COUNTS = {"calls": 0, "rows": [torch.zeros(2)]}
CALLS = 0
GENERATOR = torch.Generator().manual_seed(0)
TEACHER = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16))
NUMBERS = (i for i in range(10**6))
FILES = {}
LOG = WRITER = None


class Kind(enum.Enum):
    """A class whose attributes cannot be set."""

    ONE = 1


class Average:
    """A plain object with a tensor."""

    def __init__(self):
        self.mean, self.seen = torch.zeros(10), []


def note(value):
    global CALLS
    CALLS += 1
    BANK.append(value)
    COUNTS["calls"] += 1
    COUNTS["rows"][0] += 1


class Keeping(Program):
    """Keeps a state wherever that is possible."""

    queue = []

    def __init__(self):
        super().__init__(nn.Linear(64, 10))
        self.average = Average()
        self.nested = {"rows": [torch.zeros(3)], "count": Counter()}
        self.kind = Kind.ONE

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        note(logits.detach().mean())
        self.queue.append(float(logits.mean()))
        with torch.no_grad():
            hidden = TEACHER(x.float()).mean().to(x.dtype)
        if not hasattr(self, "first"):
            self.first = float(hidden)
        self.average.mean += 0.1 * logits.detach().mean(0).to(self.average.mean.dtype)
        self.average.seen.append(1)
        self.nested["rows"][0] += 1
        self.nested["count"]["steps"] += 1
        noise = torch.rand((), generator=GENERATOR)
        state = torch.stack(tuple(BANK)).mean() + self.average.mean.mean().to(x.dtype) + noise
        kept = len(self.queue) + CALLS + COUNTS["calls"] + float(COUNTS["rows"][0][0])
        return F.cross_entropy(logits * (1 + 0.001 * state), y) * (
            1 + 1e-3 * kept + 0.1 * hidden + self.nested["rows"][0][0]
        )


def state():
    """Return all that is kept outside."""
    return (
        [float(value) for value in BANK],
        COUNTS["calls"],
        COUNTS["rows"][0].tolist(),
        CALLS,
        GENERATOR.get_state().tolist(),
        {k: v.tolist() for k, v in TEACHER.state_dict().items()},
        list(Keeping.queue),
    )


def forget():
    global CALLS
    CALLS = 0
    BANK.clear()
    Keeping.queue.clear()
    COUNTS.update(calls=0, rows=[torch.zeros(2)])
    GENERATOR.manual_seed(0)
    TEACHER[1].reset_running_stats()


class Act(pl.Callback):
    """Does something with a replica before the second step."""

    def __init__(self, act):
        self.act, self.result = act, None

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 1:
            self.result = self.act(trainer, module, batch)


def act_on(act, model):
    callback = Act(act)
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(callbacks=[callback], limit_train_batches=2, max_epochs=1)
    trainer.fit(model, digits())
    return callback.result


def test_a_step_repeats_and_touches_nothing_of_the_run():
    def act(trainer, module, batch):
        before, bank = state(), BANK
        replica = Replica(module, trainer.optimizers, dtype=None)
        with replica.working():
            assert BANK is not bank
            losses = [float(replica.losses(batch)[0]) for _ in range(3)]
            further = float(replica.advance(batch)[0])
        assert BANK is bank
        assert state() == before
        assert module.average.seen == [1]
        assert module.nested["count"]["steps"] == 1
        return losses, further

    forget()
    losses, further = act_on(act, Keeping())
    assert losses[0] == losses[1] == losses[2] != further


def test_it_is_put_back_when_a_step_fails():
    class Failing(Keeping):
        def training_step(self, batch, batch_idx):
            if batch_idx == 5:
                note(torch.zeros(()))
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    def act(trainer, module, batch):
        before, bank, teacher = state(), BANK, TEACHER
        replica = Replica(module, trainer.optimizers, dtype=None)
        with pytest.raises(KeyboardInterrupt), replica.working():
            replica.losses(batch, index=5)
        return state() == before and BANK is bank and TEACHER is teacher

    forget()
    assert act_on(act, Failing())


def test_a_run_that_is_watched_keeps_the_same():
    found = []
    for callbacks in ([DebugSuite(sinks=[])], []):
        forget()
        pl.seed_everything(0, verbose=False)
        model = Keeping()
        quiet_trainer(callbacks=callbacks, max_epochs=1).fit(model, digits(n=320))
        found.append((state(), model.net.weight.tolist(), model.average.mean.tolist()))
    assert found[0] == found[1]


def test_a_global_iterator_is_not_drawn_from():
    class Drawing(Program):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (1 + 1e-6 * next(NUMBERS))

    def act(trainer, module, batch):
        before = next(NUMBERS)
        replica = Replica(module, trainer.optimizers, dtype=None)
        with replica.working(), pytest.raises(NotApplicableError, match="iterator"):
            replica.losses(batch)
        return next(NUMBERS) - before

    assert act_on(act, Drawing(nn.Linear(64, 10))) == 1


def test_open_files_of_the_program_are_not_written_to(tmp_path):
    global LOG, WRITER

    class Writing(Program):
        def training_step(self, batch, batch_idx):
            LOG.write("a line\n")
            WRITER.writerow([1, 2])
            return super().training_step(batch, batch_idx)

    with open(tmp_path / "log.txt", "w") as LOG, open(tmp_path / "rows.csv", "w") as rows:
        WRITER = csv.writer(rows)
        suite = DebugSuite(sinks=[])
        quiet_trainer(callbacks=[suite], max_epochs=1).fit(
            Writing(nn.Linear(64, 10)), digits(n=320)
        )
    assert suite.experiments
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 10
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 10


def test_contents_come_back_in_place():
    tensor, array = torch.ones(3), np.ones(3)
    values = {
        "list": [tensor, [1, 2]],
        "counter": Counter("aab"),
        "ordered": OrderedDict(a=1, b=2),
        "default": defaultdict(list, a=[1]),
        "set": {1, 2},
        "deque": deque([1, 2], maxlen=2),
        "array": array,
        "random": random.Random(0),
        "object": Average(),
    }
    contents = Contents([values])
    drawn = random.Random(0).random()
    same = values["list"], values["object"]
    for _ in range(2):
        contents.restore()
        assert values["list"] is same[0]
        assert values["object"] is same[1]
        assert (tensor.tolist(), array.tolist(), values["list"][1]) == (
            [1.0] * 3,
            [1.0] * 3,
            [1, 2],
        )
        assert values["counter"] == Counter("aab")
        assert list(values["ordered"]) == ["a", "b"]
        assert values["default"] == {"a": [1]}
        assert (values["set"], list(values["deque"])) == ({1, 2}, [1, 2])
        assert values["object"].seen == []
        assert values["random"].random() == drawn
        tensor += 1
        array[0] = 7
        values["list"][1].append(3)
        values["list"].clear()
        values["counter"].update("c")
        values["ordered"].move_to_end("a")
        values["default"]["b"].append(1)
        values["set"].add(9)
        values["deque"].append(9)
        values["object"].seen.append(1)
        values["object"].new = 1
