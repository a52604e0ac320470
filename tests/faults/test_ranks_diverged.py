"""Processes that train models of their own, and the same programs with one model for all."""

import pytest
import torch
from torch import nn

from tests.processes import fit_in_two
from tests.runs import Program, alarms, digits, names, places


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def cnn():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def short():
    return digits(n=320, batch=16)


def images():
    return digits(n=320, batch=16, flat=False)


class Manual(Program):
    """Calls backward itself; Lightning's has the strategy average the gradients."""

    def __init__(self, averages):
        super().__init__(mlp())
        self.automatic_optimization = False
        self.averages = averages

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        if self.averages:
            self.manual_backward(loss)
        else:
            loss.backward()
        optimizer.step()


class Loads(Program):
    """Takes weights from elsewhere, in the first process or before training in all."""

    def __init__(self, late):
        super().__init__(cnn())
        self.late = late
        if not late:
            self.load()

    def load(self):
        with torch.no_grad():
            self.net[0].weight.mul_(1.5)

    def on_train_start(self):
        if self.late and self.global_rank == 0:
            self.load()


class Rates(Program):
    """Sets the learning rate by hand, in one process or in all."""

    def __init__(self, everywhere):
        super().__init__(mlp())
        self.everywhere = everywhere

    def on_train_start(self):
        if self.everywhere or self.global_rank == 1:
            self.optimizers().param_groups[0]["lr"] = 3e-3


class Revives(Program):
    """Draws weights anew from time to time, from a seed of its own or a shared one."""

    def __init__(self, shared):
        super().__init__(cnn())
        self.shared = shared

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx % 5 == 4:
            seed = batch_idx if self.shared else batch_idx + 100 * self.global_rank
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                self.net[0].weight[0] = torch.randn(1, 3, 3, generator=generator) / 3


class Projects(Program):
    """Makes a random projection at the first step, from a seed of its own or a shared one."""

    def __init__(self, shared):
        super().__init__(mlp())
        self.shared = shared

    def forward(self, x):
        if not hasattr(self, "projection"):
            seed = 0 if self.shared else self.global_rank
            generator = torch.Generator().manual_seed(seed)
            self.register_buffer("projection", torch.randn(64, 64, generator=generator) / 4)
        return super().forward(x @ self.projection)


@pytest.mark.parametrize(
    ("program", "broken", "fixed", "data", "where", "words"),
    [
        (Manual, False, True, short, "net.0.weight", "gradients are not averaged"),
        (Loads, True, False, images, "net.0.weight", "before the first update"),
        (Rates, False, True, short, "net.2.bias", "optimizer"),
        (Revives, False, True, images, "net.0.weight", "something else than the optimizer"),
        (Projects, False, True, short, "projection", "no process changes it"),
    ],
)
def test_pair(program, broken, fixed, data, where, words):
    suite = fit_in_two(lambda: program(broken), data(), max_epochs=2)
    assert names(suite) == {"ranks-diverged"}
    assert where in places(suite, "ranks-diverged")
    assert words in suite.findings[0].message
    assert not alarms(fit_in_two(lambda: program(fixed), data(), max_epochs=2))
