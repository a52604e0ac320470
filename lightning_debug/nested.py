"""Trains a copy of a module through a Lightning Trainer of its own, and leaves no trace."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug import factory, trainers
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.stand_ins import Mute

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
NOWHERE = str(Path(tempfile.gettempdir()) / "lightning_debug")  # it is never made
SPEAKERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
# Once a run, not once a step: they have been called for the run of which this is a part.
ONCE = (
    "prepare_data",
    "setup",
    "configure_model",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "teardown",
)
HIGHEST = ("lr", "initial_lr", "max_lr")


class Nested:
    """Trains copies as the trainer of a run would; a :class:`~.experiments.training.Training`.

    Args:
        trainer: Of the run; read, never changed.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._outer = trainer

    def __call__(
        self,
        replica: Replica,
        batches: Callable[[int], Any],
        *,
        steps: int,
        factor: float = 1.0,
        around: Callable[[], AbstractContextManager[Any]],
        after: Callable[[Tensor], bool],
    ) -> None:
        """Train a copy; see :class:`~.experiments.training.Training`."""
        watch = _Watch(self._outer, factor, after)
        with quietly(), replica.attachable() as module:
            trainer = self._trainer(watch, steps)
            overridden = _overrides(module, around)
            module.__dict__ |= overridden
            try:
                # Only the step is the user's code: what is listened for comes from there.
                with torch._C.DisableTorchFunction():
                    trainer.fit(module, _Batches(batches, steps))  # type: ignore[arg-type]
            except (Exception, SystemExit) as error:
                if isinstance(watch.error, KeyboardInterrupt):
                    raise KeyboardInterrupt from None
                if isinstance(error, NotApplicableError):
                    raise
                raise NotApplicableError(f"training a copy fails: {error}") from error
            finally:
                for name in overridden:
                    module.__dict__.pop(name, None)
                for optimizer in trainer.optimizers:
                    optimizer.state.clear()  # a trainer and its parts hold each other for a while

    def _trainer(self, watch: pl.Callback, steps: int) -> pl.Trainer:
        platform = trainers.platform(self._outer)
        if "precision" not in platform:
            plugin = type(self._outer.precision_plugin).__name__
            raise NotApplicableError(f"the precision plugin {plugin} is the user's own")
        return quiet_trainer(
            namespace(self._outer),
            **platform,
            callbacks=[watch],
            max_epochs=1,
            limit_train_batches=steps,
            limit_val_batches=0,
        )


def namespace(trainer: object) -> str:
    """Return the package that a trainer or module is from: ``"lightning.pytorch"`` or its twin."""
    for parent in type(trainer).__mro__:
        for root in NAMESPACES:
            if parent.__module__.startswith(root + "."):
                return root
    return NAMESPACES[0]


def quiet_trainer(root: str, **settings: Any) -> pl.Trainer:
    """Return a trainer that logs, writes and says nothing.

    Args:
        root: The package that it is from.
        settings: Its arguments.
    """
    package = importlib.import_module(root)
    environments = importlib.import_module(root + ".plugins.environments")
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "min_epochs": 0,
        "use_distributed_sampler": False,
        "default_root_dir": NOWHERE,
        # No cluster is asked: this is one process.
        "plugins": [environments.LightningEnvironment()],
    }
    trainer: pl.Trainer = package.Trainer(**(quiet | settings))
    trainer.loggers = [_Silence()]  # type: ignore[list-item]
    return trainer


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Undo what a Trainer does to the process: its messages, and the handlers of signals."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} if main else {}
    levels = {name: logging.getLogger(name).level for name in SPEAKERS}
    with factory.switched_off():
        for name in SPEAKERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)


class _Silence(Mute):
    """A logger that keeps nothing."""

    save_dir = log_dir = root_dir = NOWHERE
    name = "lightning_debug"
    version = 0


class _Batches:
    """As many batches as there are steps."""

    def __init__(self, batches: Callable[[int], Any], steps: int) -> None:
        self._batches = batches
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        return map(self._batches, range(self._steps))


class _Watch(pl.Callback):
    """Holds the learning rates, and hears of each step."""

    def __init__(self, outer: pl.Trainer, factor: float, after: Callable[[Tensor], bool]) -> None:
        self._outer = outer
        self._factor = factor
        self._after = after
        self._rates: dict[int, list[float]] = {}
        self._losses: list[Tensor] = []
        self.error: BaseException | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Optimizers are there: schedulers and weight decay go.

        Raises:
            NotApplicableError: If an optimizer is not that of the copy, or does nothing.
        """
        own = {id(parameter) for parameter in pl_module.parameters()}
        for optimizer in trainer.optimizers:
            highest = [max(g[k] for k in HIGHEST if k in g) for g in optimizer.param_groups]
            self._rates[id(optimizer)] = [float(rate) * self._factor for rate in highest]
            for group in optimizer.param_groups:
                if not all(id(parameter) in own for parameter in group["params"]):
                    raise NotApplicableError("the optimizer holds weights that are not the model's")
                group |= {"weight_decay": 0.0} if "weight_decay" in group else {}
            if not any(highest):
                raise NotApplicableError("the learning rate is 0")
        trainer.strategy.lr_scheduler_configs = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Steps may ask the trainer for the data module; its hooks are not called any more."""
        setattr(trainer, "datamodule", getattr(self._outer, "datamodule", None))  # noqa: B010

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Hear the loss, in manual optimization as well."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Hold the learning rates, whatever hooks of the module make of them."""
        rates = self._rates.get(id(optimizer), ())
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = rate

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Tell of the step."""
        loss = self._losses[-1] if self._losses else torch.tensor(torch.nan)
        self._losses.clear()
        if self._after(loss):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the data module before it is torn down."""
        setattr(trainer, "datamodule", None)  # noqa: B010 - set, not declared

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remember what went wrong: Lightning makes an exit of an interrupt."""
        self.error = exception
        setattr(trainer, "datamodule", None)  # noqa: B010 - set, not declared


def _overrides(
    module: Module, around: Callable[[], AbstractContextManager[Any]]
) -> dict[str, Callable[..., Any]]:
    """Return the methods that a copy has instead of its own while it is trained."""
    step: Callable[..., Any] = module.training_step  # type: ignore[assignment]

    @functools.wraps(step)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        with torch._C._EnableTorchFunction(), around():
            return step(*args, **kwargs)

    return {
        **dict.fromkeys(ONCE, lambda *_, **__: None),
        "configure_callbacks": list,
        "training_step": training_step,
        # The batch has been through these.
        "on_before_batch_transfer": lambda batch, *_: batch,
        "transfer_batch_to_device": lambda batch, *_: batch,
        "on_after_batch_transfer": lambda batch, *_: batch,
    }
