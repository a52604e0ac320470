"""A trainer of its own for a copy: the user's step and optimizers, and no trace of it."""

import contextlib
import logging
import random
import signal

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from lightning_debug.experiments.batches import detached
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.nested import Nested
from tests.runs import Program, digits, quiet_trainer


def net():
    """Return a small net with dropout."""
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))


class Manual(Program):
    """Steps by hand, logs everywhere, and counts."""

    def __init__(self, loss=F.cross_entropy):
        super().__init__(net(), loss)
        self.automatic_optimization = False
        self.count = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.count += 1
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()
        self.log("loss", loss, prog_bar=True)
        if self.logger is not None:
            self.logger.experiment.add_scalar("loss", loss)
        assert self.trainer.datamodule is None or self.trainer.datamodule.batches


class Try(pl.Callback):
    """Trains a copy when the first batch starts.

    Attributes:
        losses: Of its steps.
        after: What the test wants to see afterwards.
    """

    def __init__(self, steps=30, around=contextlib.nullcontext, stop=lambda loss: False):
        self.steps, self.around, self.stop = steps, around, stop
        self.losses, self.error = [], None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx:
            return
        replica = Replica(pl_module, trainer.optimizers, dtype=None)

        def after(loss):
            self.losses.append(float(loss))
            return self.stop(self.losses)

        self.before = state(pl_module)
        with replica.working():
            replica.restore()
            try:
                Nested(trainer)(
                    replica,
                    lambda _: detached(batch),
                    steps=self.steps,
                    around=self.around,
                    after=after,
                )
            except (NotApplicableError, KeyboardInterrupt) as error:
                self.error = error
        self.replica = replica
        self.after = state(pl_module)


def state(module):
    """Return all that a trainer might leave behind in a module or the process."""
    tensors = {n: t.clone() for n, t in module.state_dict().items()}
    return {
        "tensors": {n: t.tolist() for n, t in tensors.items()},
        "grads": [p.grad is None for p in module.parameters()],
        "attributes": {n: id(v) for n, v in vars(module).items() if n != "_current_fx_name"},
        "modes": [m.training for m in module.modules()],
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "levels": [logging.getLogger(n).level for n in ("pytorch_lightning", "lightning.pytorch")],
        "trainer": id(module.trainer),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def run(module, attempt, data=None, **settings):
    """Fit a module for two batches with the callback."""
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2, callbacks=[attempt], **settings)
    trainer.fit(module, data or digits())
    return attempt


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        pytest.param(lambda: Program(net()), {}, id="automatic"),
        pytest.param(Manual, {}, id="manual"),
        pytest.param(lambda: Program(net()), {"precision": "bf16-mixed"}, id="bf16-mixed"),
        pytest.param(lambda: Program(net()), {"precision": "64-true"}, id="double"),
        pytest.param(
            lambda: Program(net(), optimizer=lambda p: optim.LBFGS(p, 0.1, 3)), {}, id="closures"
        ),
    ],
)
def test_a_copy_learns_and_nothing_is_left_behind(build, settings):
    if settings.get("precision") == "64-true":
        settings |= {"detect_anomaly": True}
    attempt = run(build(), Try(), **settings)
    assert attempt.error is None
    assert len(attempt.losses) == 30
    assert attempt.losses[-1] < attempt.losses[0] - 0.1
    assert attempt.after == attempt.before


def test_training_ends_when_enough_is_known():
    attempt = run(Program(net()), Try(stop=lambda losses: len(losses) == 7))
    assert len(attempt.losses) == 7


def test_the_step_runs_inside_what_the_experiment_wants():
    entered = []

    @contextlib.contextmanager
    def around():
        entered.append(True)
        yield

    run(Program(net()), Try(steps=5, around=around))
    assert len(entered) == 5


def test_the_other_namespace_has_a_trainer_of_its_own():
    class Twin(lightning.pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, batch, batch_idx):
            assert isinstance(self.trainer, lightning.pytorch.Trainer) or batch_idx == 0
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return optim.Adam(self.parameters(), 1e-2)

    attempt = Try()
    trainer = lightning.pytorch.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[attempt],
    )
    trainer.fit(Twin(), digits())
    assert attempt.error is None
    assert len(attempt.losses) == 30


def test_hooks_of_a_run_are_not_called_for_its_part():
    class Hooked(Program):
        def __init__(self):
            super().__init__(net())
            self.heard = []

        def setup(self, stage):
            self.heard.append("setup")

        def configure_model(self):
            self.heard.append("configure_model")

        def on_fit_start(self):
            self.heard.append("fit start")

        def on_train_start(self):
            self.heard.append("train start")

        def on_train_batch_start(self, batch, batch_idx):
            self.heard.append("batch start")

        def on_train_end(self):
            self.heard.append("train end")

        def configure_callbacks(self):
            return [pl.callbacks.EarlyStopping("loss")]

        def teardown(self, stage):
            self.heard.append("teardown")

    module = Hooked()
    attempt = run(module, Try(steps=3), enable_checkpointing=False)
    started = ["setup", "configure_model", "fit start", "train start"]
    assert attempt.replica.module.heard == [*started, *["batch start"] * 3]
    # Lightning calls on_train_batch_start of callbacks before that of the module.
    assert module.heard == [*started, "batch start", "batch start", "train end", "teardown"]


def test_schedules_and_decay_are_off_and_the_rate_is_at_its_peak():
    seen = []

    class Cycled(Program):
        def configure_optimizers(self):
            optimizer = optim.SGD(self.parameters(), 0.01, weight_decay=0.1)
            schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=100)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def on_before_optimizer_step(self, optimizer):
            seen.append([optimizer.param_groups[0][k] for k in ("lr", "weight_decay")])

    attempt = run(Cycled(net()), Try(steps=4))
    assert attempt.error is None
    assert seen[1:4] == [[0.5, 0.0]] * 3
    assert seen[-1][0] < 0.1
    assert seen[-1][1] == 0.1


def test_the_data_module_is_there_and_its_hooks_are_not_called():
    class Data(pl.LightningDataModule):
        batches, setups, teardowns = 2, 0, 0

        def setup(self, stage):
            self.setups += 1

        def teardown(self, stage):
            self.teardowns += 1

        def train_dataloader(self):
            return digits()

    data = Data()
    attempt = run(Manual(), Try(), data)
    assert attempt.error is None
    assert (data.setups, data.teardowns) == (1, 1)
    assert data.trainer is not None


def test_the_environment_switches_no_suite_on_inside(monkeypatch):
    monkeypatch.setenv("LIGHTNING_DEBUG", "1")
    callbacks = []

    class Spying(Program):
        def on_train_batch_start(self, batch, batch_idx):
            callbacks.append([type(c).__name__ for c in self.trainer.callbacks])

    with monkeypatch.context() as bare:
        bare.setenv("LIGHTNING_DEBUG", "0")
        run(Spying(net()), Try(steps=2))
    assert "DebugSuite" not in callbacks[0]
    run(Spying(net()), Try(steps=2))
    assert not any("DebugSuite" in names for names in callbacks[-4:-2])


def test_what_fails_in_a_copy_says_why():
    class Failing(Program):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("no more")
            return super().training_step(batch, batch_idx)

    attempt = run(Failing(net()), Try())
    assert isinstance(attempt.error, NotApplicableError)
    assert "no more" in str(attempt.error)
    assert attempt.after == attempt.before


def test_an_interrupt_is_one_and_leaves_nothing_behind():
    class Interrupted(Program):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    attempt = run(Interrupted(net()), Try())
    assert isinstance(attempt.error, KeyboardInterrupt)
    assert attempt.after == attempt.before


def test_what_its_optimizers_keep_is_let_go_of(monkeypatch):
    made = []

    def kept(nested, watch, steps, trainer=Nested._trainer):
        made.append(trainer(nested, watch, steps))
        return made[-1]

    monkeypatch.setattr(Nested, "_trainer", kept)
    states = []

    def look(losses):
        states.append(len(made[0].optimizers[0].state))
        return False

    attempt = run(Program(net(), F.cross_entropy), Try(steps=3, stop=look))
    assert len(attempt.losses) == 3
    assert states[-1] == 4
    assert not made[0].optimizers[0].state
