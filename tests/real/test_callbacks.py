"""Beside other people's callbacks, tuners and interrupts: silent, traceless, and not blind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import callbacks as theirs
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader

from lightning_debug import DebugSuite
from lightning_debug.resumption import KEY
from lightning_debug.stored_run import read_run
from tests.real.test_loops import Plain, cases, few, held_out, mlp, with_dead_relu
from tests.real.twin_runs import watched
from tests.runs import alarms, digits, names, quiet_trainer
from tests.test_no_trace import StopError, assert_same, attached


class Tuned(Plain):
    """Knows its learning rate and its batch size, and makes its loaders."""

    def __init__(self, net: Callable[[], nn.Module] = mlp) -> None:
        super().__init__(net)
        self.lr, self.batch_size = 1e-3, 16

    def train_dataloader(self) -> DataLoader[Any]:
        return digits(n=160, batch=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return held_out()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Backbone(Plain):
    """A normed backbone that is frozen at first, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.net = nn.Sequential(self.backbone, nn.Linear(32, 10))

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)]


class Freezes(theirs.BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, train_bn=True)


class Ema(pl.Callback):
    """Keeps an average of the weights, and validates with it."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        for name, value in pl_module.state_dict().items():
            known = self.average.setdefault(name, value.clone())
            known.lerp_(value, 0.1)

    def _swap(self, pl_module: nn.Module) -> None:
        now = {name: value.clone() for name, value in pl_module.state_dict().items()}
        if self.average:
            pl_module.load_state_dict(self.average)
            self.average = now

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._swap(pl_module)


class Spikes(pl.Callback):
    """Leaves out batches after a loss that jumped."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 7 else None


class FindsOften(theirs.LearningRateFinder):
    """Looks for the rate again in the middle of a fit, as the documentation shows."""

    def __init__(self) -> None:
        super().__init__(num_training_steps=12)

    def on_fit_start(self, *args: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch in (0, 1):
            self.lr_find(trainer, pl_module)


CALLBACKS: dict[str, tuple[Any, Any]] = {
    "SWA": (Plain, lambda: theirs.StochasticWeightAveraging(1e-3, swa_epoch_start=0.5)),
    "weight averaging": (Plain, lambda: theirs.WeightAveraging()),
    "moving average": (Plain, lambda: theirs.EMAWeightAveraging(decay=0.9)),
    "own moving average": (Plain, Ema),
    "fine-tuning": (Backbone, lambda: theirs.BackboneFinetuning(1, lambda epoch: 1.5)),
    "own fine-tuning": (Backbone, Freezes),
    "pruning": (Plain, lambda: theirs.ModelPruning("l1_unstructured", amount=0.1)),
    "lambda": (Plain, lambda: theirs.LambdaCallback(on_train_start=lambda *_: None)),
    "accumulation": (Plain, lambda: theirs.GradientAccumulationScheduler({0: 1, 1: 2, 2: 5})),
    "early stopping": (Plain, lambda: theirs.EarlyStopping("val_loss", patience=1)),
    "timer": (Plain, lambda: theirs.Timer("00:01:00:00")),
    "leaves the epoch early": (Plain, Spikes),
    "throughput": (Plain, lambda: theirs.ThroughputMonitor(lambda batch: len(batch[0]))),
    "learning rate finder": (Tuned, lambda: theirs.LearningRateFinder(num_training_steps=12)),
    "learning rate finder, in each epoch": (Tuned, FindsOften),
}


@pytest.mark.parametrize(
    ("make", "callback"),
    cases(
        CALLBACKS,
        *("weight averaging", "moving average", "fine-tuning", "lambda", "timer", "throughput"),
        "accumulation",
    ),
)
def test_callbacks_of_others(make: Any, callback: Any, tmp_path: Path) -> None:
    before, settings = attached(), {"default_root_dir": tmp_path, "max_epochs": 4}
    suite = watched(
        make,
        few,
        validation=held_out,
        callbacks=lambda: [callback()],
        settings=lambda: settings,
    )
    assert alarms(suite) == []
    assert attached() == before


@pytest.mark.slow
def test_a_batch_size_is_found_inside_of_a_fit(tmp_path: Path) -> None:
    suite = watched(
        Tuned,
        lambda: None,
        callbacks=lambda: [theirs.BatchSizeFinder(max_trials=2, init_val=4)],
        settings=lambda: {"default_root_dir": tmp_path},
    )
    assert alarms(suite) == []


def test_a_tuner_is_not_watched_and_the_fit_after_it_is(tmp_path: Path) -> None:
    def tuned(*suites: DebugSuite) -> tuple[pl.Trainer, Tuned]:
        pl.seed_everything(3, verbose=False)
        trainer = quiet_trainer(callbacks=list(suites), default_root_dir=tmp_path)
        model = Tuned(with_dead_relu)
        tuner = Tuner(trainer)
        tuner.lr_find(model, num_training=12, min_lr=1e-4, max_lr=1e-2)
        tuner.scale_batch_size(model, init_val=4, max_trials=2)
        return trainer, model

    suite = DebugSuite(preflight=False)
    trainer, model = tuned(suite)
    assert suite.findings == []
    assert suite.failures == {}
    assert not (tmp_path / "lightning_debug").exists()
    _, bare = tuned()
    assert (model.lr, model.batch_size) == (bare.lr, bare.batch_size)
    assert_same(model.state_dict(), bare.state_dict())
    trainer.fit(model)
    assert "zero-gradient" in names(suite)
    assert suite.failures == {}
    assert [path.name for path in tmp_path.iterdir()] == ["lightning_debug"]
    assert read_run(suite.run_folder).findings


def raising(error: type[BaseException]) -> Callable[..., None]:
    def fails(*args: Any) -> None:
        raise error("by the user")

    return fails


class Interrupted(Plain):
    """Does something at the eighth batch, or in validation."""

    def __init__(self, happens: Callable[..., Any], validating: bool = False) -> None:
        super().__init__(with_dead_relu)
        self.happens, self.validating = happens, validating

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 8 and not self.validating:
            self.happens(self)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if self.validating and not self.trainer.sanity_checking:
            self.happens(self)
        return super().validation_step(batch, batch_idx)


class Crashes(torch.utils.data.Dataset[Any]):
    """Its worker dies of the ninth batch."""

    def __len__(self) -> int:
        return 160

    def __getitem__(self, index: int) -> Any:
        if index == 140:
            raise StopError("by the user")
        return torch.full((64,), index / 160), index % 10


def from_worker() -> DataLoader[Any]:
    return DataLoader(Crashes(), batch_size=16, num_workers=1)


ENDINGS: dict[str, tuple[Any, Any, type[BaseException] | None, str]] = {
    "Ctrl-C": (Interrupted(raising(KeyboardInterrupt)), few, SystemExit, "KeyboardInterrupt"),
    "in the step": (Interrupted(raising(StopError)), few, StopError, "StopError"),
    "in validation": (Interrupted(raising(StopError), True), few, StopError, "StopError"),
    "in a worker": (Plain(with_dead_relu), from_worker, StopError, "StopError"),
    "SIGTERM": (
        Interrupted(lambda _: os.kill(os.getpid(), signal.SIGTERM)),
        few,
        SIGTERMException,
        "SIGTERMException",
    ),
    "asked to stop": (
        Interrupted(lambda module: setattr(module.trainer, "should_stop", True)),
        few,
        None,
        "completed",
    ),
    "no more batches": (Interrupted(raising(StopIteration)), few, None, "completed"),
}


@pytest.mark.parametrize(("model", "data", "error", "status"), ENDINGS.values(), ids=ENDINGS)
def test_however_a_run_ends_its_folder_is_whole(
    model: Any, data: Any, error: Any, status: str, tmp_path: Path
) -> None:
    before, handlers = attached(), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    suite = DebugSuite(preflight=False)
    checkpoint = theirs.OnExceptionCheckpoint(tmp_path)
    trainer = quiet_trainer(
        callbacks=[suite, checkpoint], default_root_dir=tmp_path, enable_checkpointing=True
    )
    with pytest.raises(error) if error else contextlib.nullcontext():
        trainer.fit(model, data(), held_out())
    assert suite.failures == {}
    run = read_run(suite.run_folder)
    assert run.record["status"] == status
    assert {finding.name for finding in run.findings} >= {"activation-collapse"}
    assert "activation-collapse" in (suite.run_folder / "report.html").read_text(encoding="utf-8")
    assert attached() == before
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loaders_with_workers(context: str) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(
            few().dataset,
            batch_size=16,
            shuffle=True,
            num_workers=2,
            persistent_workers=True,
            multiprocessing_context=context,
        )

    assert alarms(watched(Plain, loader)) == []


def test_a_checkpoint_on_an_exception_and_a_rich_bar(tmp_path: Path) -> None:
    """All of its own sinks at work, beside what writes to the same terminal and folder."""
    suite = DebugSuite()
    keeps = theirs.ModelCheckpoint(tmp_path, save_on_exception=True, filename="kept")
    trainer = quiet_trainer(
        callbacks=[suite, keeps, theirs.RichProgressBar()],
        default_root_dir=tmp_path,
        enable_checkpointing=True,
        enable_progress_bar=True,
    )
    with pytest.raises(StopError, match="by the user"):
        trainer.fit(Interrupted(raising(StopError)), few(), held_out())
    assert suite.failures == {}
    (kept,) = tmp_path.glob("*.ckpt")
    assert KEY in torch.load(kept, weights_only=True)
    assert read_run(suite.run_folder).record["status"] == "StopError"
