"""Four trainings on made-up data, from the cheapest step to the most layers for its size."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SAMPLES = 1024
VOCABULARY = 1000
WINDOW = 128


class Classifier(pl.LightningModule):
    """A network, a cross-entropy and an optimizer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        loss = F.cross_entropy(self.net(x).flatten(0, -2), y.flatten())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return what nobody has to tune."""
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class ResidualBlock(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        around = nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
        self.around = nn.Sequential(*around) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of an image."""
        return F.relu(self.body(x) + self.around(x))


class LanguageModel(nn.Module):
    """A decoder that predicts the next token."""

    def __init__(self, width: int = 256, layers: int = 6) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(0.02 * torch.randn(WINDOW, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, batch_first=True, norm_first=True, activation="gelu"
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of each next token."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        out: Tensor = self.head(self.blocks(x, mask=mask, is_causal=True))
        return out


def mlp() -> Classifier:
    """Return three linear layers."""
    return Classifier(
        nn.Sequential(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
    )


def resnet(width: int = 16) -> Classifier:
    """Return a ResNet-18 for small images."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [
        block
        for before, after in itertools.pairwise(widths)
        for block in (
            ResidualBlock(before, after, 1 if before == after else 2),
            ResidualBlock(after, after, 1),
        )
    ]
    stem = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 10)
    return Classifier(nn.Sequential(*stem, *blocks, *head))


def gpt() -> Classifier:
    """Return a language model of six layers."""
    return Classifier(LanguageModel())


def deep(blocks: int = 200, width: int = 64) -> Classifier:
    """Return many small layers: the worst case for whoever hooks modules."""
    layers = [
        layer
        for _ in range(blocks)
        for layer in (nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())
    ]
    return Classifier(nn.Sequential(*layers, nn.Linear(width, 10)))


def images(*shape: int, batch: int) -> DataLoader[Any]:
    """Return noise with a class that can be learned from it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, *shape, generator=generator)
    y = (x.flatten(1)[:, :10]).argmax(dim=1)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True, drop_last=True)


def tokens(*, batch: int) -> DataLoader[Any]:
    """Return sequences in which each token tells something of the next."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 20, (SAMPLES, WINDOW + 1), generator=generator)
    ids = steps.cumsum(dim=1) % VOCABULARY
    pairs = TensorDataset(ids[:, :-1], ids[:, 1:])
    return DataLoader(pairs, batch_size=batch, shuffle=True, drop_last=True)


# What is trained, on what, and how many steps make a block that can be timed.
Workload = tuple[Callable[[], Classifier], Callable[[], DataLoader[Any]], int]
WORKLOADS: dict[str, Workload] = {
    "mlp": (mlp, lambda: images(784, batch=128), 60),
    "resnet": (resnet, lambda: images(3, 32, 32, batch=64), 6),
    "gpt": (gpt, lambda: tokens(batch=8), 3),
    "deep": (deep, lambda: images(64, batch=32), 10),
}
