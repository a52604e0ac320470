"""Healthy training whose learning rate follows one of the many schedules that are meant so."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateFinder, Timer
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler as lr

from tests.runs import Program, alarms, digits, fit, quiet_trainer

DATA = digits(n=512)


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Scheduled(Program):
    """A program whose scheduler is built from the module and the optimizer."""

    def __init__(self, schedule, interval="epoch", rate=3e-3, **config):
        super().__init__(mlp())
        self.schedule, self.interval, self.rate, self.config = schedule, interval, rate, config

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=self.rate)
        scheduler = self.schedule(self, optimizer)
        config = {"scheduler": scheduler, "interval": self.interval, "monitor": "loss"}
        return {"optimizer": optimizer, "lr_scheduler": config | self.config}

    @property
    def updates(self):
        return self.trainer.estimated_stepping_batches


class Noam(lr.LRScheduler):
    """Inverse square root after a linear warm-up, as a class of its own."""

    def __init__(self, optimizer, warm):
        self.warm = warm
        super().__init__(optimizer)

    def get_lr(self):
        step = max(1, self.last_epoch)
        return [base * min(step**-0.5, step * self.warm**-1.5) for base in self.base_lrs]


class Factor:
    """A factor that is an object and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, step):
        self.asked.append(step)
        return 0.98**step


def warm_cosine(module, optimizer):
    up = lr.LinearLR(optimizer, 0.01, total_iters=8)
    down = lr.CosineAnnealingLR(optimizer, module.updates - 8)
    return lr.SequentialLR(optimizer, [up, down], [8])


def follows_the_run(module, optimizer):
    return lr.LambdaLR(optimizer, lambda _: 1.0 - 0.5 * module.current_epoch / 10)


BY_STEP = [
    pytest.param(lambda m, o: lr.OneCycleLR(o, 1e-2, total_steps=m.updates), id="one cycle"),
    pytest.param(warm_cosine, id="warm-up, then cosine"),
    pytest.param(lambda m, o: lr.CosineAnnealingLR(o, m.updates), id="cosine to 0"),
    pytest.param(lambda m, o: lr.CosineAnnealingLR(o, 5000), id="smoke run of a long cosine"),
    pytest.param(lambda m, o: lr.LinearLR(o, 1.0, 0.0, total_iters=m.updates), id="linear to 0"),
    pytest.param(lambda m, o: lr.LambdaLR(o, lambda t: min(1, (t + 1) / 10)), id="warm, constant"),
    pytest.param(lambda m, o: lr.LambdaLR(o, lambda t: min(1, t / 4000)), id="long warm-up"),
    pytest.param(
        lambda m, o: lr.CyclicLR(o, 1e-4, 5e-3, step_size_up=6, cycle_momentum=False), id="cyclic"
    ),
    pytest.param(lambda m, o: lr.CosineAnnealingWarmRestarts(o, 6, 2), id="warm restarts"),
    pytest.param(lambda m, o: lr.ExponentialLR(o, 0.98), id="exponential"),
    pytest.param(lambda m, o: lr.StepLR(o, 16, 0.8), id="steps of an epoch"),
    pytest.param(lambda m, o: Noam(o, 20), id="own class"),
    pytest.param(lambda m, o: lr.LambdaLR(o, Factor()), id="factor with a memory"),
    pytest.param(follows_the_run, id="factor that reads the run"),
    pytest.param(lambda m, o: lr.ReduceLROnPlateau(o, patience=200), id="patient plateau"),
]
BY_EPOCH = [
    pytest.param(lambda m, o: lr.StepLR(o, 30), id="smoke run of steps of 30 epochs"),
    pytest.param(lambda m, o: lr.MultiStepLR(o, [100, 150]), id="smoke run of milestones"),
    pytest.param(lambda m, o: lr.CosineAnnealingLR(o, 200), id="smoke run of 200 epochs"),
    pytest.param(lambda m, o: lr.CosineAnnealingLR(o, m.trainer.max_epochs), id="cosine"),
    pytest.param(lambda m, o: lr.CosineAnnealingWarmRestarts(o, 2), id="warm restarts"),
    pytest.param(lambda m, o: lr.ExponentialLR(o, 0.9), id="exponential"),
    pytest.param(lambda m, o: lr.ConstantLR(o), id="constant"),
    pytest.param(lambda m, o: lr.LinearLR(o), id="default linear warm-up"),
    pytest.param(lambda m, o: lr.LambdaLR(o, lambda t: min(1, (t + 1) / 10)), id="warm-up of 10"),
    pytest.param(lambda m, o: lr.ReduceLROnPlateau(o), id="plateau that never fires"),
    pytest.param(lambda m, o: lr.MultiplicativeLR(o, lambda _: 0.95), id="multiplicative"),
    pytest.param(
        lambda m, o: lr.ChainedScheduler([lr.ConstantLR(o, 0.5, 2), lr.ExponentialLR(o, 0.9)]),
        id="chained",
    ),
    pytest.param(lambda m, o: lr.CyclicLR(o, 1e-3, 3e-3, 2, cycle_momentum=False), id="cyclic"),
]


@pytest.mark.parametrize("schedule", BY_STEP)
def test_by_step(schedule):
    assert alarms(fit(lambda: Scheduled(schedule, "step"), DATA, epochs=3)) == []


@pytest.mark.parametrize("schedule", [lambda o: lr.StepLR(o, 5), lambda o: lr.StepLR(o, 1, 0.5)])
def test_decay_that_would_come_to_zero_in_thousands_of_epochs(schedule):
    program = partial(Scheduled, lambda m, o: schedule(o))
    assert alarms(fit(program, digits(n=512, batch=8), epochs=14)) == []


@pytest.mark.parametrize("schedule", BY_EPOCH)
def test_by_epoch(schedule):
    assert alarms(fit(lambda: Scheduled(schedule), DATA, epochs=5)) == []


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({"epochs": 1}, id="one epoch"),
        pytest.param({"epochs": -1, "max_steps": 40}, id="counted in updates"),
        pytest.param({"epochs": 1000, "max_steps": 40}, id="stopped by updates"),
        pytest.param({"limit_train_batches": 4}, id="few batches"),
        pytest.param({"fast_dev_run": 2}, id="fast dev run"),
        pytest.param({"overfit_batches": 1, "epochs": 30}, id="one batch over and over"),
        pytest.param({"accumulate_grad_batches": 4}, id="accumulation"),
        pytest.param({"accumulate_grad_batches": 3, "epochs": 4}, id="accumulation with a rest"),
    ],
)
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_trainer_settings(trainer, interval):
    def cosine(module, optimizer):
        epochs = max(1, module.trainer.max_epochs)
        return lr.CosineAnnealingLR(optimizer, module.updates if interval == "step" else epochs)

    assert alarms(fit(lambda: Scheduled(cosine, interval), DATA, **{"epochs": 3} | trainer)) == []


class Stops(pl.Callback):
    """Ends the run as an early stop does, at the end of the third epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 2


@pytest.mark.parametrize(
    "callback",
    [
        pytest.param(lambda: EarlyStopping("loss", min_delta=9.0, patience=3), id="early stop"),
        pytest.param(lambda: Timer("00:00:01:00"), id="timer"),
        pytest.param(Stops, id="own"),
    ],
)
def test_run_of_open_length(callback):
    def cosine(module, optimizer):
        return lr.CosineAnnealingLR(optimizer, 10)

    epochs = 10 if callback is Stops else 8
    found = fit(lambda: Scheduled(cosine), DATA, epochs=epochs, callbacks=(callback(),))
    assert alarms(found) == []


def test_early_stop_long_before_the_last_epoch():
    def cosine(module, optimizer):
        return lr.CosineAnnealingLR(optimizer, 10)

    stop = EarlyStopping("loss", min_delta=9.0, patience=2, check_on_train_epoch_end=True)
    assert alarms(fit(lambda: Scheduled(cosine), DATA, epochs=100, callbacks=(stop,))) == []


def test_learning_rate_finder():
    finder = LearningRateFinder(num_training_steps=20, max_lr=1e-2, update_attr=False)

    def cosine(module, optimizer):
        return lr.CosineAnnealingLR(optimizer, module.updates)

    found = fit(lambda: Scheduled(cosine, "step"), DATA, epochs=3, callbacks=(finder,))
    assert [alarm for alarm in alarms(found) if "scheduler" in alarm] == []


def test_weight_averaging_brings_a_scheduler_for_the_last_epoch():
    average = pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-3)
    assert alarms(fit(lambda: Program(mlp()), DATA, epochs=5, callbacks=(average,))) == []


def test_weight_averaging_takes_the_scheduler_over():
    average = pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=2)

    def cosine(module, optimizer):
        return lr.CosineAnnealingLR(optimizer, module.updates)

    found = fit(lambda: Scheduled(cosine, "step"), DATA, epochs=5, callbacks=(average,))
    assert alarms(found) == []


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_resumed(interval, tmp_path):
    def cosine(module, optimizer):
        return lr.CosineAnnealingLR(optimizer, 64 if interval == "step" else 4)

    pl.seed_everything(0, verbose=False)
    first = quiet_trainer(max_epochs=2)
    first.fit(Scheduled(cosine, interval), DATA)
    first.save_checkpoint(tmp_path / "half.ckpt")
    found = fit(lambda: Scheduled(cosine, interval), DATA, epochs=4, resume=tmp_path / "half.ckpt")
    assert alarms(found) == []


class InHooks(Program):
    """Keeps the scheduler to itself, and calls it in a hook."""

    def __init__(self, schedule):
        super().__init__(mlp())
        self.schedule = schedule

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=3e-3)
        self.scheduler = self.schedule(optimizer)
        return optimizer

    def on_train_epoch_end(self):
        self.scheduler.step()


class OwnCalls(Scheduled):
    """Calls the scheduler with the epoch, as schedulers of other libraries want it."""

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step(epoch=self.current_epoch)


class ReturnedAndCalled(Scheduled):
    """Lightning knows the scheduler, calls it once an epoch, and the program at each batch."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.lr_schedulers().step()


class AtTheEndOfEpochs(Scheduled):
    """Lightning is told to call at each update, and the hook lets only the last one through."""

    def lr_scheduler_step(self, scheduler, metric):
        if self.trainer.is_last_batch:
            scheduler.step()


class Assigned(Program):
    """A warm-up that is written into the groups."""

    def on_train_batch_start(self, batch, batch_idx):
        for group in self.optimizers().param_groups:
            group["lr"] = 1e-3 * min(1.0, (self.global_step + 1) / 20)


class LayerWise(Program):
    """A smaller rate for each layer further down, and a body that does not follow the schedule."""

    def configure_optimizers(self):
        groups = [
            {"params": layer.parameters(), "lr": 1e-3 * 0.8**i}
            for i, layer in enumerate([self.net[2], self.net[0]])
        ]
        optimizer = optim.AdamW(groups)
        factors = [lambda step: max(0.0, 1.0 - step / 20), lambda _: 1.0]
        scheduler = lr.LambdaLR(optimizer, factors)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: InHooks(lambda o: lr.ExponentialLR(o, 0.8)), id="in a hook"),
        pytest.param(lambda: InHooks(lambda o: lr.StepLR(o, 30)), id="in a hook, nothing yet"),
        pytest.param(lambda: OwnCalls(lambda m, o: lr.ExponentialLR(o, 0.9)), id="own calls"),
        pytest.param(
            lambda: ReturnedAndCalled(lambda m, o: lr.CosineAnnealingLR(o, m.updates)),
            id="returned and called",
        ),
        pytest.param(
            lambda: AtTheEndOfEpochs(lambda m, o: lr.CosineAnnealingLR(o, 4), "step"),
            id="called at the end of epochs",
        ),
        pytest.param(lambda: Assigned(mlp()), id="assigned"),
        pytest.param(lambda: LayerWise(mlp()), id="layer-wise"),
        pytest.param(lambda: Program(mlp()), id="none"),
    ],
)
def test_by_hand(program):
    assert alarms(fit(program, DATA, epochs=4)) == []


class Manual(Scheduled):
    """Manual optimization; the scheduler is called where the user calls it."""

    def __init__(self, schedule, when, every=1):
        super().__init__(schedule)
        self.automatic_optimization = False
        self.when, self.every = when, every

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        self.manual_backward(self.loss(self(x), y) / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()
            if self.when == "step":
                self.lr_schedulers().step()

    def on_train_epoch_end(self):
        if self.when == "epoch":
            self.lr_schedulers().step()
        elif self.when == "plateau":
            self.lr_schedulers().step(torch.tensor(1.0 / (1 + self.current_epoch)))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            lambda: Manual(lambda m, o: lr.CosineAnnealingLR(o, m.updates), "step"), id="step"
        ),
        pytest.param(
            lambda: Manual(lambda m, o: lr.CosineAnnealingLR(o, m.updates // 4), "step", every=4),
            id="step with accumulation",
        ),
        pytest.param(
            lambda: Manual(lambda m, o: lr.StepLR(o, 30), "epoch", every=2), id="epoch, smoke run"
        ),
        pytest.param(lambda: Manual(lambda m, o: lr.CosineAnnealingLR(o, 4), "epoch"), id="epoch"),
        pytest.param(lambda: Manual(lambda m, o: lr.ReduceLROnPlateau(o), "plateau"), id="plateau"),
    ],
)
def test_manual(program):
    assert alarms(fit(program, DATA, epochs=4)) == []


class Gan(pl.LightningModule):
    """Two optimizers with a scheduler each, called at each update."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g_step, d_step = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        d_loss = F.softplus(-self.critic(real)).mean()
        d_loss = d_loss + F.softplus(self.critic(fake.detach())).mean()
        d_step.zero_grad()
        self.manual_backward(d_loss)
        d_step.step()
        g_step.zero_grad()
        self.manual_backward(F.softplus(-self.critic(fake)).mean())
        g_step.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        both = [
            optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
            optim.Adam(self.critic.parameters(), lr=2e-4, betas=(0.5, 0.999)),
        ]
        linear = partial(lr.LambdaLR, lr_lambda=lambda step: 1.0 - step / 48)
        return both, [linear(optimizer) for optimizer in both]


def test_gan():
    assert alarms(fit(Gan, DATA, epochs=3)) == []
