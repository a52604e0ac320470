"""Steps that keep a state, look at the clock or draw, and repeat for all that."""

import hashlib
import itertools
import os
import random
import time
import uuid
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit

BANK = deque(maxlen=128)
STATE = {"calls": 0, "mean": None}
READY = False


def network():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Healthy(Program):
    """Classifies digits; what is added to the loss is the trap."""

    def __init__(self):
        super().__init__(network())

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y) + self.extra(x, y, logits)

    def extra(self, x, y, logits):
        return 0.0


class GlobalBank(Healthy):
    def extra(self, x, y, logits):
        BANK.extend(logits.detach().softmax(1))
        return 0.01 * (logits.softmax(1).mean(0) - torch.stack(tuple(BANK)).mean(0)).square().sum()


class GlobalMean(Healthy):
    def extra(self, x, y, logits):
        now = logits.detach().mean(0)
        mean = now if STATE["mean"] is None else 0.9 * STATE["mean"] + 0.1 * now
        STATE["mean"] = mean
        return 0.01 * (logits.mean(0) - mean).abs().mean()


class LazyPenalty(Healthy):
    """A penalty in every second step, counted in a global, and timed."""

    def extra(self, x, y, logits):
        begun = time.perf_counter()
        STATE["calls"] += 1
        penalty = 1e-3 * logits.square().mean() if STATE["calls"] % 2 else 0.0
        self.log("seconds", time.perf_counter() - begun)
        return penalty


class FirstCall(Healthy):
    def extra(self, x, y, logits):
        global READY
        first, READY = not READY, True
        return 0.1 * logits.square().mean() if first else 0.0


class ClassQueue(Healthy):
    queue = []

    def extra(self, x, y, logits):
        self.queue.append(logits.detach().mean())
        return 0.01 * (logits.mean() - torch.stack(self.queue[-16:]).mean()).square()


class Ema:
    """An average that is no module."""

    def __init__(self):
        self.mean = torch.zeros(10)
        self.count = 0

    def update(self, value):
        self.mean.mul_(0.9).add_(0.1 * value.to(self.mean.dtype))
        self.count += 1
        return self.mean / (1 - 0.9**self.count)


class PlainObject(Healthy):
    def __init__(self):
        super().__init__()
        self.ema = Ema()

    def extra(self, x, y, logits):
        return 0.01 * (logits.mean(0) - self.ema.update(logits.detach().mean(0))).abs().mean()


class PlainTensor(Healthy):
    def __init__(self):
        super().__init__()
        self.bank, self.at = torch.randn(64, 10), 0

    def extra(self, x, y, logits):
        self.bank[self.at : self.at + 8] = logits.detach()[:8]
        self.at = (self.at + 8) % 64
        bank = self.bank.to(logits.dtype).mean(0)
        return 0.01 * F.cosine_similarity(logits.mean(0), bank, dim=0)


class SecondLoader(Healthy):
    def on_fit_start(self):
        self.other = itertools.cycle(digits(n=64))

    def extra(self, x, y, logits):
        other, labels = next(self.other)
        return 0.1 * F.cross_entropy(self(other.to(x.dtype)), labels)


class SecondIterator(Healthy):
    def on_fit_start(self):
        self.other = iter(digits(n=1024, batch=8))

    def extra(self, x, y, logits):
        other, labels = next(self.other)
        return 0.1 * F.cross_entropy(self(other.to(x.dtype)), labels)


class OwnGenerators(Healthy):
    """Not seeded, but kept: a copy has them in the same state."""

    def __init__(self):
        super().__init__()
        self.numeric, self.plain = np.random.default_rng(), random.Random()
        self.generator = torch.Generator()
        self.generator.seed()

    def extra(self, x, y, logits):
        noise = torch.randn(logits.shape, generator=self.generator)
        return 1e-3 * (logits * noise).mean() * (self.numeric.random() + self.plain.random())


class Timed(Healthy):
    """Looks at clocks and makes names, for the log only."""

    def extra(self, x, y, logits):
        begun, name = time.time(), uuid.uuid4().hex
        while time.monotonic() < begun - time.time():
            pass
        self.last = f"{name}-{os.urandom(2).hex()}-{random.Random().random()}"
        self.log("seconds", time.time() - begun)
        return 0.0


class Filled(Healthy):
    """Memory that is not filled, and is before it is read."""

    def extra(self, x, y, logits):
        mask = torch.empty_like(logits).bernoulli_(0.9)
        rows = logits.new_empty(len(x) + 5, 10)
        rows[: len(x)] = logits * mask
        return 1e-3 * rows[: len(x)].square().mean()


class Cached(Healthy):
    """Hashes and identities as keys, and seeds from a digest of text."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def extra(self, x, y, logits):
        key = (hash("penalty"), id(self.net))
        self.cache.setdefault(key, 1e-3)
        number = int(hashlib.sha256(b"penalty").hexdigest()[:6], 16)
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(number))
        total = sum(len(name) for name in {"one", "two", "three"})
        return self.cache[key] * (logits * noise).mean() + 1e-6 * total * logits.mean()


class Sampled(Healthy):
    """Draws from all seeded generators, and once in a while does something else."""

    def extra(self, x, y, logits):
        if random.random() < 0.5:
            logits = logits + 0.01 * torch.randn_like(logits)
        return 1e-3 * np.random.rand() * logits.square().mean()


ALL = [
    GlobalBank,
    GlobalMean,
    LazyPenalty,
    FirstCall,
    ClassQueue,
    PlainObject,
    PlainTensor,
    SecondLoader,
    SecondIterator,
    OwnGenerators,
    Timed,
    Filled,
    Cached,
    Sampled,
]


def forget():
    """Begin as in a new process."""
    global READY
    READY = False
    BANK.clear()
    STATE.update(calls=0, mean=None)
    ClassQueue.queue.clear()


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_silent(make):
    forget()
    found = fit(make, digits(), epochs=2)
    assert alarms(found) == []
    assert "nondeterministic-step" not in {f.name for f in found.findings}


@pytest.mark.parametrize(
    "make", [make for make in ALL if make not in (SecondLoader, SecondIterator)]
)
def test_it_is_seen_that_they_repeat(make):
    forget()
    found = fit(make, digits(), epochs=1, limit_train_batches=4)
    (made,) = [e for e in found.experiments if e.name == "one step made twice"]
    assert (made.outcome, made.detail) == ("passed", "the same loss and gradients, bit for bit")


def test_dropout_and_recurrent_nets_repeat():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(8, 16, 2, dropout=0.3, batch_first=True)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            return self.head(F.dropout(self.rnn(x.squeeze(1))[0][:, -1], 0.3, self.training))

    found = fit(lambda: Program(Reader()), digits(flat=False), epochs=1)
    assert alarms(found) == []
    (made,) = [e for e in found.experiments if e.name == "one step made twice"]
    assert made.outcome == "passed"
