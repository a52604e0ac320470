"""What a Trainer tells: read, never changed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from rich.text import Text
from tqdm import tqdm

from lightning_debug.observation import Plan, Watcher
from lightning_debug.taps.schedules import Course, Scheduled
from lightning_debug.tracking import record


def plan(trainer: pl.Trainer, module: pl.LightningModule) -> Plan:
    """Return what the run is set up to do, except for its optimizers."""
    updates, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    return Plan(
        updates=_count(updates),
        epochs=_count(trainer.max_epochs or 0),
        batches=_count(batches),
        accumulate=trainer.accumulate_grad_batches,
        automatic=module.automatic_optimization,
        precision=str(trainer.precision),
        processes=trainer.world_size,
        clip_value=float(trainer.gradient_clip_val or 0.0),
        clip_algorithm=str(trainer.gradient_clip_algorithm or "norm"),
    )


def _count(number: float) -> int:
    """Return a number of things; 0 for an unknown or endless one."""
    return int(number) if math.isfinite(number) and number > 0 else 0


def scaler(trainer: pl.Trainer) -> object:
    """Return what scales the loss of a run in float16; None where nothing does."""
    return getattr(trainer.precision_plugin, "scaler", None)


def updates(trainer: pl.Trainer, module: pl.LightningModule, batch_idx: int) -> bool:
    """Tell whether the optimizer is expected to step in this batch."""
    if not module.automatic_optimization:
        return True
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def resumed(trainer: pl.Trainer) -> bool:
    """Tell whether training goes on: from a checkpoint, or after an earlier fit."""
    # Steps of optimizers without Lightning's wrapper are not counted; epochs are.
    return trainer.ckpt_path is not None or trainer.global_step > 0 or trainer.current_epoch > 0


def course(trainer: pl.Trainer) -> Course:
    """Return what schedulers of the run have to do with."""
    callbacks = getattr(trainer, "callbacks")  # noqa: B009 - set, not declared
    return Course(
        schedulers=lambda: scheduled(trainer),
        trial=dry(trainer) or bool(getattr(trainer, "overfit_batches", 0)),
        limited=getattr(trainer, "limit_train_batches", 1.0) not in (1.0, None),
        cut=trainer.max_steps != -1,
        # 1000 epochs are what Lightning takes where nobody says how many.
        open=trainer.max_epochs == 1000 or any(map(_may_stop, callbacks)),
    )


def _may_stop(callback: pl.Callback) -> bool:
    """Tell whether a callback ends training early, as early stopping and timers do."""
    return hasattr(callback, "stopped_epoch") or hasattr(callback, "time_remaining")


def scheduled(trainer: pl.Trainer) -> list[Scheduled]:
    """Return the schedulers that the trainer knows, as they are now."""
    return [
        Scheduled(
            scheduler=config.scheduler,
            interval=config.interval,
            frequency=config.frequency,
            plateau=bool(config.reduce_on_plateau) or hasattr(config.scheduler, "threshold_mode"),
        )
        for config in trainer.lr_scheduler_configs
    ]


def watchers(trainer: pl.Trainer) -> list[Watcher]:
    """Return what decides by a logged metric, known by its properties and not by its class."""
    found = []
    for callback in getattr(trainer, "callbacks"):  # noqa: B009 - set, not declared
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        # A checkpoint that keeps nothing compares nothing.
        keeps = getattr(callback, "save_top_k", 1) != 0
        if isinstance(monitor, str) and mode in ("min", "max") and keeps:
            found.append(Watcher(name=type(callback).__name__, monitor=monitor, mode=str(mode)))
    for config in trainer.lr_scheduler_configs:
        monitor, mode = config.monitor, getattr(config.scheduler, "mode", None)
        automatic = trainer.lightning_module.automatic_optimization
        if automatic and config.reduce_on_plateau and monitor and mode in ("min", "max"):
            name = type(config.scheduler).__name__
            found.append(Watcher(name=name, monitor=monitor, mode=str(mode), guards=False))
    return found


def replicates(trainer: pl.Trainer) -> bool:
    """Tell whether each process has a whole model, whose gradients are averaged."""
    return hasattr(trainer.strategy.model, "parameters_to_ignore")


def replica(trainer: pl.Trainer) -> Callable[[str], bool]:
    """Return what tells by name whether the strategy keeps a tensor equal in all processes."""
    strategy = trainer.strategy
    if not replicates(trainer) or getattr(strategy, "_model_averager", None) is not None:
        return lambda name: False
    # What wraps the model averages the gradients of all but these.
    ignored = getattr(strategy.model, "parameters_to_ignore", ())
    return lambda name: name not in ignored


def part(trainer: pl.Trainer) -> int:
    """Return which part of the data this process is given."""
    settings = trainer.distributed_sampler_kwargs or {}
    return int(settings.get("rank", trainer.global_rank))


def log_dir(trainer: pl.Trainer) -> Path:
    """Return where the run writes; asks all ranks."""
    folder = trainer.log_dir
    return Path(folder if isinstance(folder, (str, Path)) else trainer.default_root_dir)


def dry(trainer: pl.Trainer) -> bool:
    """Tell whether the run is a trial that writes nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))


# What of a trainer's own attributes changes a training.
SETTINGS = (
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "fast_dev_run",
    "val_check_interval",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "reload_dataloaders_every_n_epochs",
    "log_every_n_steps",
    "num_nodes",
)


def settings(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the settings that are worth recording."""
    strategy = trainer.strategy
    callbacks = getattr(trainer, "callbacks")  # noqa: B009 - set, not declared
    found = {name: getattr(trainer, name, None) for name in SETTINGS}
    return found | {
        "precision": str(trainer.precision),
        "strategy": type(strategy).__name__,
        "strategy_settings": dict(getattr(strategy, "_ddp_kwargs", None) or {}),
        "accelerator": type(trainer.accelerator).__name__,
        "devices": trainer.world_size,
        "callbacks": [type(callback).__name__ for callback in callbacks],
        "loggers": [type(logger).__name__ for logger in trainer.loggers],
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
    }


def hyperparameters(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Return the hyperparameters that were saved, by whose they are."""
    owners = {"model": module, "data": getattr(trainer, "datamodule", None)}
    # Asked for, they would be made.
    return {
        name: owner.hparams
        for name, owner in owners.items()
        if owner is not None and "_hparams" in vars(owner) and owner.hparams
    }


def schedulers(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Return what is known of each scheduler of the trainer."""
    return [
        record.scheduler(config.scheduler)
        | {"interval": config.interval, "frequency": config.frequency, "monitor": config.monitor}
        for config in trainer.lr_scheduler_configs
    ]


def metrics(trainer: pl.Trainer) -> dict[str, float]:
    """Return what the run has logged last, by name; without what is no single number."""
    found = {}
    for name, value in trainer.callback_metrics.items():
        with contextlib.suppress(RuntimeError, TypeError, ValueError):
            found[str(name)] = float(value)
    return found


def say(text: str) -> None:
    """Say something on rank zero, where Lightning says what it uses."""
    rank_zero_info(text)


def replay(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the settings of a trainer that trains as this one does, in one process."""
    return platform(trainer) | {
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": trainer.gradient_clip_algorithm,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def platform(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the settings of a trainer that runs where this one does, in one process.

    Without the precision where its plugin is the user's own.
    """
    device = trainer.strategy.root_device
    found: dict[str, Any] = {
        "accelerator": device.type,
        "devices": [device.index] if device.index is not None else 1,
    }
    plugin = type(trainer.precision_plugin)
    lightnings = plugin.__module__.startswith(("pytorch_lightning.", "lightning."))
    return found | ({"precision": trainer.precision} if lightnings else {})


def writer(trainer: pl.Trainer) -> Callable[[str], None]:
    """Return a function that prints above the progress bar, whichever kind it is."""

    def write(text: str) -> None:
        live = getattr(trainer.progress_bar_callback, "progress", None)
        if live is not None and hasattr(live, "console"):
            live.console.print(Text.from_ansi(text))
        else:
            tqdm.write(text)

    return write
