"""Programs that nobody has seeded, and the same programs seeded in the ways that people do."""

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_debug import RunTracker
from tests.runs import Program, digits, quiet_trainer


@pytest.fixture(autouse=True)
def unseeded(monkeypatch):
    """Let the process be as if it had just started, and restore it afterwards."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that it is restored, whatever a test makes of it
        monkeypatch.delenv(name)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.seed()
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def told(*, resume=None, **settings):
    tracker = RunTracker(sinks=[])
    trainer = quiet_trainer(max_steps=2, callbacks=[tracker], **settings)
    trainer.fit(Program(nn.Linear(64, 10)), digits(n=64), ckpt_path=resume)
    assert not tracker.failures
    return [(finding.name, str(finding.severity)) for finding in tracker.findings]


def test_nobody_has_seeded():
    assert told() == [("unseeded-run", "info")]


def test_only_other_generators_are_seeded():
    random.seed(0)
    np.random.seed(0)
    assert told() == [("unseeded-run", "info")]


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_by_hand(seed):
    torch.manual_seed(seed)
    assert told() == []


def test_by_lightning():
    pl.seed_everything(7, workers=True, verbose=False)
    assert told() == []


def test_by_lightning_for_a_script_that_draws_a_seed_of_its_own_later():
    pl.seed_everything(7, verbose=False)
    torch.seed()
    assert told() == []


def test_resumed(tmp_path):
    path = tmp_path / "last.ckpt"
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(Program(nn.Linear(64, 10)), digits(n=64))
    trainer.save_checkpoint(path)
    assert told(resume=path) == []
