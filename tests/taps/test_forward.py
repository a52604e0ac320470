"""What the modules of a model are to one another."""

import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug import DebugSuite
from lightning_debug.checks import LossTaskMismatch, VanishingGradient
from tests.runs import Program, digits, fit, sequences


class Writer(nn.Module):
    """Adds rows of a table of positions to what it reads."""

    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 8), nn.Embedding(16, 8)
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, ids):
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.body(x).relu().mean(1))


def test_tables_are_no_heads(monkeypatch):
    seen = []
    monkeypatch.setattr(
        VanishingGradient, "on_gradients", lambda self, obs: seen.append(obs) or iter(())
    )
    suite = DebugSuite(sinks=[], select=["vanishing-gradient"], preflight=False)
    fit(lambda: Program(Writer()), sequences(), suite=suite, max_steps=1)
    ends = {name for name, gradient in seen[0].parameters.items() if gradient.end}
    assert ends == {"net.head.weight", "net.head.bias"}


class Rebuilt(Program):
    """An autoencoder whose first module gives back what it takes."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 64)))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self.net(x), x)


def test_a_module_that_gives_back_what_it_takes_has_made_nothing(monkeypatch):
    seen = []
    monkeypatch.setattr(
        LossTaskMismatch, "on_loss_calls", lambda self, obs: seen.append(obs) or iter(())
    )
    suite = DebugSuite(sinks=[], select=["loss-task-mismatch"], preflight=False)
    fit(Rebuilt, digits(), suite=suite, max_steps=1)
    assert not seen[0].calls[0].target.made
