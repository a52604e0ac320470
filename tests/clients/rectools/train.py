"""Recommends the next item: SASRec and BERT4Rec on sessions that follow a path."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from fingerprint import fingerprint
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

ITEMS, USERS, LENGTH = 60, 300, 20

pl.seed_everything(0)
generator = np.random.default_rng(0)
start = generator.integers(0, ITEMS, size=(USERS, 1))
steps = generator.choice([1, 2], p=[0.8, 0.2], size=(USERS, LENGTH)).cumsum(axis=1)
interactions = pd.DataFrame(
    {
        Columns.User: np.repeat(np.arange(USERS), LENGTH),
        Columns.Item: ((start + steps) % ITEMS).ravel(),
        Columns.Weight: 1.0,
        Columns.Datetime: np.tile(pd.date_range("2024-01-01", periods=LENGTH), USERS),
    }
)
dataset = Dataset.construct(interactions)


def trainer() -> pl.Trainer:
    """Return the trainer of a model."""
    return pl.Trainer(max_epochs=10, accelerator="cpu", enable_progress_bar=False)


settings = {
    "n_blocks": 1,
    "n_heads": 2,
    "n_factors": 32,
    "session_max_len": LENGTH,
    "batch_size": 32,
    "lr": 3e-3,
    "get_trainer_func": trainer,
    "deterministic": True,
}
states = []
for kind in (SASRecModel, BERT4RecModel):
    model = kind(**settings)
    model.fit(dataset)
    metrics = model.fit_trainer.callback_metrics
    states += [model.lightning_model.state_dict(), metrics]
    print(kind.__name__, metrics)
print(fingerprint(states))
