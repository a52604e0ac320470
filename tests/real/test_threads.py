"""Several trainings at once, a thread for each, as in a search for hyperparameters."""

import sys
import threading
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_debug import DebugSuite, together, trainers
from tests.runs import Program, alarms, digits, names, quiet_trainer
from tests.test_no_trace import attached


@pytest.fixture(autouse=True)
def often():
    """Switch threads so often that whatever can come between does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def network(*, dead):
    layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    if dead:
        nn.init.constant_(layers[0].bias, -50.0)
    return nn.Sequential(*layers)


class ByHand(Program):
    """Steps by itself."""

    def __init__(self, net):
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss


def together_in_threads(*trainings):
    """Train all at once; return what was raised."""
    raised = []

    def run(training):
        try:
            training()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(training,)) for training in trainings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def train(suite, program, **settings):
    settings = {"max_epochs": 3} | settings
    quiet_trainer(callbacks=[suite], **settings).fit(program, digits(n=640))


def test_each_hears_of_its_own_training_only():
    before = attached()
    intervals = (1, 50, 1, 50)
    suites = [DebugSuite(every_n_steps=every, preflight=False, sinks=[]) for every in intervals]
    kinds = Program, ByHand, ByHand, Program
    programs = [kind(network(dead=i >= 2)) for i, kind in enumerate(kinds)]
    pairs = zip(suites, programs, strict=True)
    assert together_in_threads(*(partial(train, *pair) for pair in pairs)) == []
    assert [suite.failures for suite in suites] == [{}] * 4
    assert alarms(suites[0]) == alarms(suites[1]) == []
    assert "dead-relu" in names(suites[2]) & names(suites[3])
    assert attached() == before


class Wait(pl.Callback):
    """Stands still at a batch until it is told to go on."""

    def __init__(self):
        self.here, self.go_on = threading.Event(), threading.Event()

    def on_train_batch_start(self, *args):
        self.here.set()
        assert self.go_on.wait(60)


def test_no_experiments_beside_another_training(monkeypatch):
    said = []
    monkeypatch.setattr(trainers, "say", said.append)
    waiting = Wait()
    first, second = (DebugSuite(sinks=[]) for _ in range(2))
    few = {"max_epochs": 1, "limit_train_batches": 3}

    def beside():
        assert waiting.here.wait(60)
        try:
            train(second, Program(network(dead=False)), **few)
        finally:
            waiting.go_on.set()

    def run():
        trainer = quiet_trainer(callbacks=[first, waiting], **few)
        trainer.fit(Program(network(dead=False)), digits(n=640))

    assert together_in_threads(run, beside) == []
    assert first.experiments
    assert second.experiments == []
    [line] = said
    assert "no experiments, because another thread trains" in line
    assert together.alone()


def test_whoever_starts_waits_for_the_experiments_of_others():
    order, begun = [], threading.Event()

    class Training:
        pass

    def experiments():
        with together.while_alone() as alone:
            begun.set()
            for _ in range(1000):
                torch.randn(10)
            order.append(alone)

    def start():
        assert begun.wait(60)
        training = Training()
        together.join(training)
        order.append("started")
        together.leave(training)

    assert together_in_threads(experiments, start) == []
    assert order == [True, "started"]
