"""Steps that draw from what no seed reaches, and the same steps seeded."""

import datetime
import os
import random
import time
import uuid

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Mixed(Program):
    """Mixup, whose weight is drawn by numpy."""

    def __init__(self, wrong):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
        self.wrong = wrong

    def training_step(self, batch, batch_idx):
        x, y = batch
        rng = default_rng() if self.wrong else np.random
        weight = rng.beta(0.4, 0.4)
        order = torch.randperm(len(x))
        logits = self(weight * x + (1 - weight) * x[order])
        return weight * F.cross_entropy(logits, y) + (1 - weight) * F.cross_entropy(
            logits, y[order]
        )


class Noisy(nn.Module):
    """Adds noise from a generator of its own that is made and seeded in each call."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        generator = torch.Generator()
        if self.wrong:
            generator.seed()
        else:
            generator.manual_seed(int(torch.randint(2**31, ())))
        return x + 0.1 * torch.randn(x.shape, generator=generator)


def convolutional(wrong):
    return Program(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), Noisy(wrong), nn.Flatten(), nn.Linear(288, 10))
    )


class Clocked(Program):
    """Seeds each step by the clock, in manual optimization."""

    def __init__(self, wrong):
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
        self.automatic_optimization = False
        self.wrong = wrong

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.wrong:
            torch.manual_seed(int(time.time()))
        optimizer = self.optimizers()
        loss = F.mse_loss(self(x + 0.1 * torch.randn_like(x)), y)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Reader(nn.Module):
    """A recurrent net whose first state is memory that nothing was written to."""

    def __init__(self, wrong):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.make = torch.empty if wrong else torch.zeros

    def forward(self, ids):
        state = self.make(1, len(ids), 16)
        return self.head(self.rnn(self.embed(ids), state)[0][:, -1])


class Masked(Program):
    """Masks tokens at places that a generator of Python draws."""

    def __init__(self, draw):
        block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        super().__init__(nn.ModuleList([nn.Embedding(20, 16), block, nn.Linear(16, 2)]))
        self.draw = draw

    def training_step(self, batch, batch_idx):
        ids, label = batch
        masked = ids.clone()
        masked[:, self.draw(ids.shape[1])] = 0
        embed, block, head = self.net
        return F.cross_entropy(head(block(embed(masked)).mean(1)), label)


def by_hash(length):
    return hash("augmentation") % length


def by_system(length):
    return random.SystemRandom().randrange(length)


def by_fresh_generator(length):
    return random.Random().randrange(length)


def by_bytes(length):
    return int.from_bytes(os.urandom(4), "big") % length


def by_identifier(length):
    return uuid.uuid4().int % length


def by_date(length):
    return int(datetime.datetime.now().timestamp()) % length


def by_reseeding(length):
    random.seed()
    return random.randrange(length)


DRAWS = [
    by_hash,
    by_system,
    by_fresh_generator,
    by_bytes,
    by_identifier,
    by_date,
    by_reseeding,
]
PAIRS = [
    pytest.param(Mixed, digits(), "training_step", "entropy", id="mixup by a fresh generator"),
    pytest.param(convolutional, digits(flat=False), "net.2", "entropy", id="noise in a conv net"),
    pytest.param(Clocked, regression(), "training_step", "clock", id="seeded by the clock"),
    pytest.param(
        lambda wrong: Program(Reader(wrong)), sequences(), "net", "memory", id="empty memory"
    ),
]


@pytest.mark.parametrize(("module", "data", "place", "source"), PAIRS)
def test_pair(module, data, place, source):
    found = fit(lambda: module(True), data, epochs=1)
    assert "nondeterministic-step" in names(found)
    assert places(found, "nondeterministic-step") == {place}
    (finding,) = [f for f in found.findings if f.name == "nondeterministic-step"]
    assert finding.evidence["source"] == source
    assert finding.evidence["line"].startswith("test_nondeterministic_step.py:")
    assert alarms(fit(lambda: module(False), data, epochs=1)) == []


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
def test_whatever_it_draws_from(draw):
    found = fit(lambda: Masked(draw), sequences(), epochs=1, limit_train_batches=4)
    assert "nondeterministic-step" in names(found)


def test_a_seeded_draw_is_none():
    found = fit(lambda: Masked(lambda n: random.randrange(n)), sequences(), epochs=1)
    assert alarms(found) == []
