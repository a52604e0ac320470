"""The three networks that every way to run is tried on, with data for them."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from tests.runs import digits, sequences

few = partial(digits, n=256)
images = partial(digits, n=256, flat=False)
sentences = partial(sequences, n=256)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Encoder(nn.Module):
    """A small transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(self.table(ids)).mean(1))
        return out
