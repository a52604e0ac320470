"""What is added to a Trainer: the suite in several ways, and what people use instead."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import wandb
from pytorch_lightning.utilities import grad_norm
from torch.optim import Optimizer

import lightning_debug
from lightning_debug import DebugSuite
from lightning_debug.section import Section

ENDLESS = 10**6

Settings = dict[str, Any]
Arm = Callable[[], Settings]


class LogNorms(pl.Callback):
    """Logs the norm of each gradient at each step, as Lightning's documentation shows it."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log them."""
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class Anomaly(pl.Callback):
    """``Trainer(detect_anomaly=True)``, off while the other training has its turn."""

    def on_train_batch_start(self, *args: Any) -> None:
        """Switch it on."""
        torch.autograd.set_detect_anomaly(True)

    def on_train_batch_end(self, *args: Any) -> None:
        """Switch it off."""
        torch.autograd.set_detect_anomaly(False)


class Watch(pl.Callback):
    """``wandb.watch`` of gradients and weights, with no network."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to watch."""
        self._run = wandb.init(
            mode="offline", dir=tempfile.mkdtemp(), settings=wandb.Settings(silent=True)
        )
        self._run.watch(pl_module, log="all", log_freq=1)

    def on_train_batch_end(self, *args: Any) -> None:
        """Log a step, which sends the histograms."""
        self._run.log({})

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop."""
        self._run.unwatch(pl_module)
        self._run.finish()


def _suite(**settings: Any) -> Arm:
    return lambda: {"callbacks": [DebugSuite(**settings)]}


class _Closely(Section):
    """Makes a whole look at every step, as at the first ones of a training."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let those first ones not end."""
        super().on_train_start(trainer, pl_module)
        if self._observer is not None:
            self._observer._schedule.dense = ENDLESS


def _closely(section: type[Section], **settings: Any) -> Arm:
    made = type(section.__name__, (_Closely, section), {})
    return lambda: {"callbacks": [made(every_n_steps=1, preflight=False, **settings)]}


def _sections() -> dict[str, Arm]:
    found = (getattr(lightning_debug, name) for name in lightning_debug.__all__)
    sections = [
        thing
        for thing in found
        if isinstance(thing, type) and issubclass(thing, Section) and thing is not DebugSuite
    ]
    return {section.__name__: _closely(section, sinks=[]) for section in sections}


# Experiments are part of whole runs; here they would only delay the blocks that are timed.
SUITE: dict[str, Arm] = {
    "off": _suite(debug=False),
    "between looks": _suite(every_n_steps=ENDLESS, preflight=False),
    "default": _suite(preflight=False),
    "every step": _suite(every_n_steps=1, preflight=False),
    "whole looks": _closely(DebugSuite),
}
ALTERNATIVES: dict[str, Arm] = {
    "wandb.watch(all)": lambda: {"callbacks": [Watch()]},
    "grad_norm logged": lambda: {"callbacks": [LogNorms()]},
    "detect_anomaly": lambda: {"callbacks": [Anomaly()]},
    "DeviceStatsMonitor": lambda: {"callbacks": [pl.callbacks.DeviceStatsMonitor(cpu_stats=True)]},
}
ARMS: dict[str, Arm] = {
    "bare": dict,
    "whole": _suite(),
    **SUITE,
    **ALTERNATIVES,
    **_sections(),
}
