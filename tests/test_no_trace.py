"""Promise 1: with the suite on, the run itself is bit for bit the same."""

from __future__ import annotations

import copy
import functools
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)
from torch.overrides import _get_current_function_mode
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.wrappers import BootStrapper

from lightning_debug import DebugSuite
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.stored_run import read_run
from tests.drawn import Album
from tests.runs import Program, digits, quiet_trainer
from tests.worst import Worst


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(288, 32),
        nn.ReLU(inplace=True),
        nn.Linear(32, 10),
    )


class Plain(Program):
    def __init__(self) -> None:
        super().__init__(network())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        # A program that draws from all three generators notices a number drawn by us.
        x, y = batch
        x = x + 0.01 * torch.randn_like(x) + 0.01 * random.random() + 0.01 * np.random.rand()
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


class DrawingCriterion(nn.Module):
    """Draws, counts and keeps, as criteria with queues and noise do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        noisy = logits + 0.1 * torch.randn_like(logits) + 0.01 * random.random()
        return -noisy.log_softmax(1).gather(1, y[:, None]).mean() + 0.0 * self.seen


class OwnCriterion(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = DrawingCriterion()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.criterion(self(x), y)


class SpelledOut(Plain):
    """Two heads, the last layers are norms, losses by hand, and a penalty on the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ink = nn.Sequential(nn.Linear(32, 4), nn.BatchNorm1d(4))
        self.last = nn.BatchNorm1d(10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        hidden = self.net[:7](x)
        logits = self.last(self.net[7](hidden))
        loss = -logits.log_softmax(1).gather(1, y[:, None]).mean()
        loss += ((self.ink(hidden) - x.mean((1, 2, 3))[:, None]) ** 2).mean()
        return loss + 1e-4 * sum(p.square().sum() for p in self.parameters())


class Normed(Plain):
    """Nothing but a handwritten loss after a norm with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*self.net[:6], nn.BatchNorm1d(32))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _ = batch
        return torch.log(torch.cosh(self(x).mean(1) - x.mean((1, 2, 3)))).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(batch[0]).abs().mean())


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()


class TwoOptimizers(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        first, second = self.net[:5].parameters(), self.net[5:].parameters()
        return torch.optim.Adam(first, lr=1e-3), torch.optim.SGD(second, lr=1e-2, momentum=0.9)


class Lbfgs(Plain):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class Checkpointed(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.utils.checkpoint import checkpoint

        hidden = checkpoint(self.net[:5], x, use_reentrant=False)
        return self.net[5:](hidden)


class Scheduled(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Compiled(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class Measured(Plain):
    """Metric objects in every way that they are used, and a metric that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.f1 = MulticlassAccuracy(10), MulticlassF1Score(10)
        self.bootstrap = BootStrapper(MulticlassAccuracy(10), num_bootstraps=3)
        self.total = MulticlassAccuracy(10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.total.update(self(x), y)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log("total", self.total.compute())  # never reset

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.log("val_f1", self.f1(logits, y))  # a mean over batches
        self.accuracy(logits, y)
        self.log("val_acc", self.accuracy)
        self.bootstrap.update(logits, y)
        self.log("seen", float(self.f1.update_count))
        return F.cross_entropy(logits, y) + 0.01 * torch.rand(())

    def on_validation_epoch_end(self) -> None:
        self.log("val_bootstrap", self.bootstrap.compute()["mean"])
        self.bootstrap.reset()


class Breaking(Plain):
    """The loss is NaN at a step between two looks, and its gradient at another."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        out = self(x)
        loss = F.cross_entropy(out, y)
        if self.global_step == 13:
            loss = loss + 0.0 * (out - out).sum().sqrt()
        return loss * torch.log(loss - loss + 0.0) if self.global_step == 17 else loss


class StopError(Exception):
    """Raised in the middle of a run."""


class Failing(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 7:
            # In the middle of a look, inside a module and a function mode of the user's own.
            self.net[0].register_forward_hook(_fail)
        return super().training_step(batch, batch_idx)


class Slow(Plain):
    """Does not get on, so that higher learning rates are tried on a copy."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-7)


def _fail(*args: Any) -> None:
    raise StopError


@dataclass(frozen=True)
class Trace:
    """Everything that a run leaves behind."""

    weights: dict[str, torch.Tensor]
    optimizers: list[Any]
    python: Any
    numpy: Any
    torch: torch.Tensor
    metrics: dict[str, torch.Tensor]


def run(
    make: Callable[[], pl.LightningModule],
    callbacks: list[pl.Callback],
    validate: bool = False,
    fails: bool = False,
    **settings: Any,
) -> Trace:
    pl.seed_everything(3, verbose=False)
    model = make()
    data = digits(flat=False, n=320)
    trainer = quiet_trainer(callbacks=callbacks, **settings)
    loaders = [data, digits(flat=False, n=64, shuffle=False)] if validate else [data]
    if fails:
        with pytest.raises(StopError):
            trainer.fit(model, *loaders)
    else:
        trainer.fit(model, *loaders)
    return Trace(
        {name: value.clone() for name, value in model.state_dict().items()},
        [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers],
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        {name: value.clone() for name, value in trainer.logged_metrics.items()},
    )


@functools.cache
def bare(make: Callable[[], pl.LightningModule], **settings: Any) -> Trace:
    """Train once without the suite, for all that is compared with it."""
    return run(make, [], **settings)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        pytest.param(Plain, {}, id="automatic"),
        pytest.param(Plain, {"validate": True}, id="validation and sanity check"),
        pytest.param(Measured, {"validate": True}, id="validation with metrics"),
        pytest.param(Plain, {"accumulate_grad_batches": 3}, id="accumulation"),
        pytest.param(Plain, {"gradient_clip_val": 0.1}, id="clipping"),
        pytest.param(Plain, {"precision": "bf16-mixed"}, id="bf16-mixed"),
        pytest.param(Plain, {"precision": "64-true"}, id="64-true"),
        pytest.param(Plain, {"detect_anomaly": True}, id="anomaly mode"),
        pytest.param(Manual, {}, id="manual"),
        pytest.param(TwoOptimizers, {}, id="two optimizers"),
        pytest.param(Lbfgs, {}, id="lbfgs"),
        pytest.param(Checkpointed, {}, id="activation checkpointing"),
        pytest.param(Scheduled, {}, id="scheduler"),
        pytest.param(OwnCriterion, {}, id="criterion with a state"),
        pytest.param(SpelledOut, {}, id="handwritten losses, several heads, a penalty"),
        pytest.param(Normed, {}, id="a handwritten loss after a norm"),
        pytest.param(Slow, {}, id="a trial of learning rates"),
        pytest.param(Compiled, {}, id="compiled"),
        pytest.param(Worst, {}, id="a step that is hard to copy"),
        pytest.param(Breaking, {}, id="values that are not finite"),
        pytest.param(Failing, {"fails": True}, id="exception in the middle"),
    ],
)
def test_the_run_is_bit_identical(make: Any, settings: dict[str, Any]) -> None:
    suite = DebugSuite(debug=True, every_n_steps=5, sinks=[])
    watched = run(make, [suite], **settings)
    assert suite.failures == {}
    for field in ("weights", "optimizers", "python", "numpy", "torch", "metrics"):
        assert_same(getattr(watched, field), getattr(bare(make, **settings), field))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        pytest.param(Plain, {"validate": True}, id="automatic"),
        pytest.param(Plain, {"accumulate_grad_batches": 2}, id="accumulation"),
        pytest.param(Worst, {}, id="a step that is hard to copy"),
        pytest.param(Breaking, {}, id="values that are not finite"),
        pytest.param(TwoOptimizers, {}, id="two optimizers"),
        pytest.param(Lbfgs, {}, id="lbfgs"),
        pytest.param(Checkpointed, {}, id="activation checkpointing"),
        pytest.param(Compiled, {}, id="compiled"),
        pytest.param(Failing, {"fails": True}, id="exception in the middle"),
    ],
)
def test_the_run_is_bit_identical_with_pictures(
    make: Any, settings: dict[str, Any], tmp_path: Any
) -> None:
    suite = DebugSuite(debug=True, every_n_steps=5, sinks=[RunFolder()])
    watched = run(make, [suite], default_root_dir=tmp_path, **settings)
    assert suite.failures == {}
    pictures = read_run(suite.run_folder).pictures
    kinds = {picture.kind for picture in pictures}
    assert kinds >= {"weights", "activations", "filters"}
    assert ("feature maps" in kinds) == (not settings.get("fails"))
    for field in ("weights", "optimizers", "python", "numpy", "torch", "metrics"):
        assert_same(getattr(watched, field), getattr(bare(make, **settings), field))


def test_the_comparison_notices_a_number_drawn() -> None:
    class Draws(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            torch.rand(1)

    with pytest.raises(AssertionError):
        assert_same(run(Plain, [Draws()]).torch, bare(Plain).torch)


def test_resuming_is_bit_identical(tmp_path: Any) -> None:
    path = tmp_path / "half.ckpt"

    def resumed(callbacks: list[pl.Callback]) -> Trace:
        pl.seed_everything(3, verbose=False)
        first = quiet_trainer(max_epochs=1, callbacks=callbacks)
        first.fit(Plain(), digits(flat=False, n=320))
        first.save_checkpoint(path)
        pl.seed_everything(4, verbose=False)
        model, trainer = Plain(), quiet_trainer(max_epochs=2, callbacks=callbacks)
        trainer.fit(model, digits(flat=False, n=320), ckpt_path=path, weights_only=False)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        optimizers = [copy.deepcopy(o.state_dict()) for o in trainer.optimizers]
        return Trace(state, optimizers, None, None, torch.get_rng_state(), {})

    watched = resumed([DebugSuite(debug=True, sinks=[])])
    weights = torch.load(path, weights_only=False)["state_dict"].keys()
    bare = resumed([])
    assert weights == torch.load(path, weights_only=False)["state_dict"].keys()
    assert_same(watched.weights, bare.weights)
    assert_same(watched.optimizers, bare.optimizers)


def attached() -> int:
    """Count everything that we could have left behind in this process."""
    return (
        len(hooks._global_forward_hooks)
        + len(hooks._global_forward_pre_hooks)
        + len(hooks._global_backward_hooks)
        + len(_global_optimizer_pre_hooks)
        + len(_global_optimizer_post_hooks)
        + (_get_current_function_mode() is not None)
        + ("apply" in vars(torch.autograd.Function.__mro__[1]))
    )


def on_modules(model: nn.Module) -> int:
    """Count the hooks on the modules and parameters of a model."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    ) + sum(len(p._backward_hooks or ()) for p in model.parameters())


@pytest.mark.parametrize("sinks", [[], [Album()]], ids=["bare", "with pictures"])
@pytest.mark.parametrize("make", [Plain, Manual, Lbfgs, Failing])
def test_nothing_stays_attached(make: Any, sinks: Any) -> None:
    before = attached()
    model = make()
    copies: list[nn.Module] = []

    class Copies(pl.Callback):
        def on_before_backward(self, trainer: Any, module: nn.Module, loss: Any) -> None:
            copies.append(copy.deepcopy(module.net))  # in the middle of a look, as EMA does

    trainer = quiet_trainer(callbacks=[DebugSuite(debug=True, sinks=sinks), Copies()])
    try:
        trainer.fit(model, digits(flat=False, n=320))
    except StopError:
        model.net[0]._forward_hooks.clear()  # the one that the program put there itself
    assert copies
    assert attached() == before
    assert on_modules(model) == 0
    assert all(on_modules(other) == 0 for other in copies[:7])


def test_nothing_stays_attached_when_validation_fails() -> None:
    class FailsToValidate(Measured):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1 and not self.trainer.sanity_checking:
                raise StopError
            return super().validation_step(batch, batch_idx)

    before = attached()
    model = FailsToValidate()
    data = digits(flat=False, n=128)
    with pytest.raises(StopError):
        quiet_trainer(callbacks=[DebugSuite(debug=True, sinks=[])]).fit(model, data, data)
    assert attached() == before
    assert on_modules(model) == 0


def test_nothing_is_attached_between_looks() -> None:
    counts: dict[int, int] = {}

    class Counts(pl.Callback):
        def on_before_backward(self, trainer: pl.Trainer, module: Any, loss: Any) -> None:
            counts[trainer.global_step] = attached()

    suite = DebugSuite(debug=True, sinks=[])
    before = attached()
    quiet_trainer(max_epochs=3, callbacks=[suite, Counts()]).fit(Plain(), digits(flat=False))
    looked = {step for step, count in counts.items() if count > before}
    assert set(range(10)) < looked
    assert len(looked) < 25 < len(counts)
    assert 60 not in looked


def test_callback_model_and_trainer_can_be_pickled() -> None:
    suite = DebugSuite(debug=True, ignore=["dead-relu"], sinks=[])
    again = pickle.loads(pickle.dumps(suite))
    assert again.ignore == ("dead-relu",)
    model = Plain()
    trainer = quiet_trainer(callbacks=[suite])

    class Pickles(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            pickle.dumps(suite)
            copy.deepcopy(module)

    trainer.callbacks.insert(0, Pickles())
    trainer.fit(model, digits(flat=False, n=128))
    trainer.callbacks.pop(0)
    assert pickle.loads(pickle.dumps(suite)).findings == suite.findings
    assert pickle.loads(pickle.dumps(model)).state_dict().keys() == model.state_dict().keys()
    assert [type(c).__name__ for c in pickle.loads(pickle.dumps(trainer)).callbacks] == [
        type(c).__name__ for c in trainer.callbacks
    ]
