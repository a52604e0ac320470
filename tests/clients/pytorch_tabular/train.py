"""Tells kinds of wine apart, by tables: a perceptron, an FT-Transformer and GANDALF."""

from __future__ import annotations

import pandas as pd
from fingerprint import fingerprint
from pytorch_tabular import TabularModel
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
from pytorch_tabular.models import (
    CategoryEmbeddingModelConfig,
    FTTransformerConfig,
    GANDALFConfig,
)
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

x, y = make_classification(1200, n_features=8, n_informative=6, n_classes=3, random_state=0)
table = pd.DataFrame(x, columns=[f"x{column}" for column in range(8)])
table["group"] = pd.cut(table["x0"], 4, labels=list("abcd")).astype(str)
table["kind"] = y
training, validation = train_test_split(table, random_state=0)
data = DataConfig(
    target=["kind"],
    continuous_cols=[f"x{column}" for column in range(8)],
    categorical_cols=["group"],
    num_workers=0,
)
models = [
    CategoryEmbeddingModelConfig(task="classification", layers="32-16"),
    FTTransformerConfig(task="classification", input_embed_dim=16, num_heads=2, num_attn_blocks=2),
    GANDALFConfig(task="classification", gflu_stages=2),
]
states = []
for config in models:
    model = TabularModel(
        data_config=data,
        model_config=config,
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(
            batch_size=64,
            max_epochs=10,
            accelerator="cpu",
            progress_bar="none",
            checkpoints=None,
            early_stopping=None,
            load_best=False,
            seed=0,
        ),
        verbose=False,
    )
    model.fit(train=training, validation=validation)
    metrics = model.trainer.callback_metrics
    states += [model.model.state_dict(), metrics]
    print(type(config).__name__, metrics)
print(fingerprint(states))
