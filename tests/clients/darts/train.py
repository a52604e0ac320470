"""Forecasts seasons with a trend: N-BEATS, a temporal convolutional network and an LSTM."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import NBEATSModel, RNNModel, TCNModel
from fingerprint import fingerprint

pl.seed_everything(0)
time = np.arange(400, dtype=np.float32)
noise = np.random.default_rng(0).normal(scale=0.1, size=400)
values = np.sin(time / 4) + 0.5 * np.sin(time / 13) + time / 200 + noise
series = Scaler().fit_transform(TimeSeries.from_values(values.astype(np.float32)))
past, future = series[:320], series[320:]
settings = {
    "n_epochs": 20,
    "random_state": 0,
    "pl_trainer_kwargs": {"accelerator": "cpu", "enable_progress_bar": False},
}
models = [
    NBEATSModel(24, 8, num_stacks=4, num_blocks=1, layer_widths=32, **settings),
    TCNModel(24, 8, num_filters=8, **settings),
    RNNModel(24, model="LSTM", hidden_dim=16, training_length=32, **settings),
]
states = []
for model in models:
    model.fit(past, val_series=future)
    forecast = model.predict(8, series=past).values()
    states += [model.model.state_dict(), model.trainer.callback_metrics, forecast]
    print(type(model).__name__, model.trainer.callback_metrics)
print(fingerprint(states))
