"""Forecasts seasons: N-HiTS, a temporal fusion transformer and an LSTM."""

from __future__ import annotations

import numpy as np
import pandas as pd
from fingerprint import fingerprint
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, DistributionLoss
from neuralforecast.models import LSTM, NHITS, TFT

generator = np.random.default_rng(0)
time = np.arange(240)
table = pd.concat(
    pd.DataFrame(
        {
            "unique_id": str(number),
            "ds": pd.date_range("2020-01-01", periods=240),
            "y": 5 + np.sin(time / 4 + phase) + generator.normal(scale=0.1, size=240),
        }
    )
    for number, phase in enumerate(generator.uniform(0, 6, size=20))
)
settings = {
    "h": 12,
    "input_size": 36,
    "max_steps": 150,
    "val_check_steps": 50,
    "scaler_type": "standard",
    "accelerator": "cpu",
    "enable_progress_bar": False,
}
forecaster = NeuralForecast(
    models=[
        NHITS(loss=MAE(), mlp_units=3 * [[32, 32]], **settings),
        TFT(loss=MAE(), hidden_size=16, **settings),
        LSTM(loss=DistributionLoss("Normal"), encoder_hidden_size=16, **settings),
    ],
    freq="D",
)
forecaster.fit(table, val_size=24)
states = [model.state_dict() for model in forecaster.models]
forecast = forecaster.predict().drop(columns=["unique_id", "ds"]).to_numpy()
print([model.train_trajectories[-1] for model in forecaster.models])
print(fingerprint(states, forecast))
