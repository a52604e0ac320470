"""Forecasts series with a trend and seasons: a temporal fusion transformer, N-BEATS and DeepAR."""

from __future__ import annotations

import lightning.pytorch as pl
from fingerprint import fingerprint
from pytorch_forecasting import (
    DeepAR,
    NBeats,
    QuantileLoss,
    TemporalFusionTransformer,
    TimeSeriesDataSet,
)
from pytorch_forecasting.data import EncoderNormalizer, GroupNormalizer
from pytorch_forecasting.data.examples import generate_ar_data

HORIZON, PAST = 8, 32

pl.seed_everything(0)
table = generate_ar_data(seasonality=10.0, timesteps=200, n_series=20, seed=0)
table["series"] = table["series"].astype(str)
table["season"] = (table["time_idx"] % 10).astype(str)
shape = {
    "time_idx": "time_idx",
    "target": "value",
    "group_ids": ["series"],
    "max_encoder_length": PAST,
    "max_prediction_length": HORIZON,
    "time_varying_unknown_reals": ["value"],
}
known = {"static_categoricals": ["series"], "time_varying_known_categoricals": ["season"]}


def fit(model: pl.LightningModule, dataset: TimeSeriesDataSet) -> list[object]:
    """Train a model, with half of the last windows held out, and return what has come of it."""
    validation = TimeSeriesDataSet.from_dataset(
        dataset, table, min_prediction_idx=180, stop_randomization=True
    )
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        gradient_clip_val=0.1,
        limit_train_batches=40,
        enable_progress_bar=False,
        default_root_dir=type(model).__name__,
    )
    trainer.fit(
        model,
        dataset.to_dataloader(train=True, batch_size=64),
        validation.to_dataloader(train=False, batch_size=64),
    )
    print(type(model).__name__, trainer.callback_metrics)
    return [model.state_dict(), trainer.callback_metrics]


past = table[table["time_idx"] < 180]
states = []

dataset = TimeSeriesDataSet(
    past, target_normalizer=GroupNormalizer(groups=["series"]), **shape, **known
)
states += fit(
    TemporalFusionTransformer.from_dataset(
        dataset,
        learning_rate=0.03,
        hidden_size=16,
        attention_head_size=2,
        hidden_continuous_size=8,
        loss=QuantileLoss(),
    ),
    dataset,
)

dataset = TimeSeriesDataSet(past, target_normalizer=EncoderNormalizer(), **shape)
states += fit(NBeats.from_dataset(dataset, learning_rate=3e-3, widths=[32, 64]), dataset)

dataset = TimeSeriesDataSet(
    past, target_normalizer=GroupNormalizer(groups=["series"]), **shape, **known
)
states += fit(DeepAR.from_dataset(dataset, learning_rate=3e-3, hidden_size=16), dataset)
print(fingerprint(states))
