"""Trains small programs with pictures on, and keeps what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from lightning_debug.picture import Network, Picture
from lightning_debug.sinks.sink import Sink
from lightning_debug.suite import NetworkPictures
from tests.runs import quiet_trainer


class Album(Sink):
    """Keeps pictures in memory."""

    draws = True

    def __init__(self) -> None:
        self.pictures: list[Picture] = []

    def picture(self, picture: Picture) -> None:
        self.pictures.append(picture)


def drawn(
    module: Callable[[], pl.LightningModule],
    data: Any,
    *,
    steps: int = 1,
    preflight: Any = False,
    **trainer: Any,
) -> list[Picture]:
    """Train for a few steps from a seed, and return the pictures."""
    pl.seed_everything(0, verbose=False)
    album = Album()
    section = NetworkPictures(sinks=[album], preflight=preflight)
    settings = {"max_epochs": -1, "max_steps": steps} | trainer
    quiet_trainer(callbacks=[section], **settings).fit(module(), data)
    assert not section.failures, section.failures
    return album.pictures


def network(pictures: list[Picture]) -> Network:
    """Return the network as it was drawn last."""
    return next(p for p in reversed(pictures) if isinstance(p, Network))
