"""The same run twice, with the suite and without: bit for bit alike, and nothing failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_debug import DebugSuite
from tests.runs import quiet_trainer
from tests.test_no_trace import assert_same


def watched(
    make: Callable[[], pl.LightningModule],
    data: Callable[[], Any],
    *,
    validation: Callable[[], Any] | None = None,
    settings: Callable[[], dict[str, Any]] = dict,
    callbacks: Callable[[], list[pl.Callback]] = list,
    epochs: int = 2,
    after: Callable[[], None] = lambda: None,
) -> DebugSuite:
    """Train with the whole suite on and without it, and return the suite.

    Args:
        make: Builds the program.
        data: Makes its training data.
        validation: Makes its validation data.
        settings: Makes what else the Trainer gets: plugins are for one run.
        callbacks: Makes the callbacks beside the suite.
        epochs: How long to train.
        after: Called after each of the two, first the one with the suite.
    """
    suite = DebugSuite(debug=True, sinks=[])
    traces = []
    for ours in ([suite], []):
        pl.seed_everything(3, verbose=False)
        model = make()
        given = {"max_epochs": epochs, "callbacks": [*ours, *callbacks()]}
        trainer = quiet_trainer(**(given | settings()))
        trainer.fit(model, data(), validation() if validation else None)
        traces.append(_left_behind(trainer, model))
        after()
    assert suite.failures == {}
    assert_same(*traces)
    return suite


def _left_behind(trainer: pl.Trainer, model: torch.nn.Module) -> dict[str, Any]:
    """Return everything that a run leaves behind."""
    return {
        "weights": {name: _plain(value) for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "gradients": [_plain(p.grad) for p in model.parameters()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scaler": _scale(trainer),
        "metrics": dict(trainer.logged_metrics),
        "random": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
    }


def _plain(value: Any) -> Any:
    """Return a tensor that can be compared."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    return value.dequantize() if value.is_quantized else value.to_dense()


def _scale(trainer: pl.Trainer) -> dict[str, Any]:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return dict(scaler.state_dict()) if scaler is not None else {}
