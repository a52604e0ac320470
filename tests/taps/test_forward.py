"""What the modules of a model are to one another."""

import torch
from torch import nn

from lightning_debug import DebugSuite
from lightning_debug.checks import VanishingGradient
from tests.runs import Program, fit, sequences


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
