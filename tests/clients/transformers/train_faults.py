"""Trains small models of transformers in programs that have a bug each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import lightning.pytorch as pl
import torch
from architectures import ARCHITECTURES, Architecture, Data, Wrapped, train
from fingerprint import fingerprint
from torch import Tensor
from torch.nn import functional as F


class SamePosition(Wrapped):
    """The loss is computed by hand, and nobody shifts the labels by one."""

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        logits = self.model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


class HeadLeftOut(Wrapped):
    """The optimizer gets the body of the model only."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.vit.parameters(), lr=self.lr)


class LeftInEval(Wrapped):
    """The model is as from_pretrained() gives it: in eval mode."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.model.eval()


def steep(architecture: Architecture) -> Wrapped:
    """Return a module with a hundred times the learning rate that is right."""
    return Wrapped(replace(architecture, lr=100 * architecture.lr))


PROGRAMS: dict[str, tuple[str, Callable[[Architecture], Wrapped]]] = {
    "labels_not_shifted": ("gpt2", SamePosition),
    "head_left_out": ("vit", HeadLeftOut),
    "left_in_eval": ("distilbert", LeftInEval),
    "learning_rate_100x": ("vit", steep),
}
states = []
for name, (model, program) in PROGRAMS.items():
    pl.seed_everything(0, verbose=False)
    architecture = ARCHITECTURES[model]
    states.append(train(program(architecture), architecture.data(), name))
print(fingerprint(states))
