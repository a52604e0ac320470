"""Forecasts seasons: DeepAR, a simple feed-forward network and a patch transformer."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import torch
from fingerprint import fingerprint
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator, PatchTSTEstimator, SimpleFeedForwardEstimator

time = np.arange(300)
generator = np.random.default_rng(0)
series = [
    {
        "start": pd.Period("2020-01-01", freq="D"),
        "target": 5 + np.sin(time / 4 + phase) + generator.normal(scale=0.1, size=300),
    }
    for phase in generator.uniform(0, 6, size=20)
]
data = ListDataset(series, freq="D")
settings = {
    "prediction_length": 12,
    "batch_size": 32,
    "num_batches_per_epoch": 40,
    "trainer_kwargs": {"max_epochs": 5, "accelerator": "cpu", "enable_progress_bar": False},
}
estimators = [
    DeepAREstimator(freq="D", hidden_size=16, **settings),
    SimpleFeedForwardEstimator(hidden_dimensions=[32, 32], **settings),
    PatchTSTEstimator(patch_len=8, d_model=16, nhead=2, dim_feedforward=32, **settings),
]
states = []
for estimator in estimators:
    random.seed(0)
    torch.manual_seed(0)
    np.random.seed(0)
    trained = estimator.train_model(data, data)
    metrics = trained.trainer.callback_metrics
    states += [trained.trained_net.state_dict(), metrics]
    print(type(estimator).__name__, metrics)
print(fingerprint(states))
