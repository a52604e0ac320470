"""Schedules that the run does not follow as they were meant, and the same programs set right."""

from functools import partial

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler as lr

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences

NAME = "scheduler-misconfigured"
DATA = digits(n=512)


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)
    )


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


class Scheduled(Program):
    """A program whose scheduler is built from the module and the optimizer."""

    def __init__(self, net, schedule, interval="epoch", rate=3e-3, **config):
        super().__init__(net())
        self.schedule, self.rate = schedule, rate
        self.config = {"interval": interval, "monitor": "loss"} | config

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=self.rate)
        config = {"scheduler": self.schedule(self, optimizer)} | self.config
        return {"optimizer": optimizer, "lr_scheduler": config}

    @property
    def updates(self):
        return self.trainer.estimated_stepping_batches


def one_cycle(module, optimizer):
    return lr.OneCycleLR(optimizer, 1e-2, total_steps=module.updates)


def cosine(module, optimizer):
    return lr.CosineAnnealingLR(optimizer, module.updates)


def cosine_of_epochs(module, optimizer):
    return lr.CosineAnnealingLR(optimizer, module.trainer.max_epochs)


def warm_up(module, optimizer):
    return lr.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 30))


def warm_up_and_cosine(module, optimizer):
    up = lr.LinearLR(optimizer, 0.1, total_iters=6)
    return lr.SequentialLR(
        optimizer, [up, lr.CosineAnnealingLR(optimizer, module.updates - 6)], [6]
    )


def inverse_root(module, optimizer):
    factor = 20**0.5
    return lr.LambdaLR(optimizer, lambda t: factor * min((t + 1) ** -0.5, (t + 1) * 400**-1.5))


def linear(count):
    def build(module, optimizer):
        total = count(module)
        return lr.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / total))

    return build


def batches(module):
    return len(DATA) * module.trainer.max_epochs


def step_lr(size, gamma=0.1):
    return lambda module, optimizer: lr.StepLR(optimizer, size, gamma)


def exponential(gamma):
    return lambda module, optimizer: lr.ExponentialLR(optimizer, gamma)


CASES = [
    pytest.param(
        partial(Scheduled, mlp, one_cycle), partial(Scheduled, mlp, one_cycle, "step"), {},
        "OneCycleLR", "made for 48 calls", id="one cycle by epoch",
    ),
    pytest.param(
        partial(Scheduled, cnn, cosine), partial(Scheduled, cnn, cosine, "step"),
        {"data": digits(n=512, flat=False)},
        "CosineAnnealingLR", "called once an epoch", id="cosine of updates by epoch, cnn",
    ),
    pytest.param(
        partial(Scheduled, Transformer, warm_up), partial(Scheduled, Transformer, warm_up, "step"),
        {"data": sequences()},
        "LambdaLR", "never takes the learning rate above", id="warm-up by epoch, transformer",
    ),
    pytest.param(
        partial(Scheduled, mlp, inverse_root), partial(Scheduled, mlp, inverse_root, "step"), {},
        "LambdaLR", "called once an epoch", id="inverse square root by epoch",
    ),
    pytest.param(
        partial(Scheduled, Recurrent, warm_up_and_cosine),
        partial(Scheduled, Recurrent, warm_up_and_cosine, "step"), {"data": sequences()},
        "SequentialLR", "called once an epoch", id="warm-up and cosine by epoch, lstm",
    ),
    pytest.param(
        partial(Scheduled, mlp, cosine_of_epochs, "step"),
        partial(Scheduled, mlp, cosine_of_epochs), {"epochs": 5},
        "CosineAnnealingLR", "again and again", id="cosine of epochs by step",
    ),
    pytest.param(
        partial(Scheduled, mlp, exponential(0.8), "step"),
        partial(Scheduled, mlp, exponential(0.8)),
        {"epochs": 6}, "ExponentialLR", "as if updates were epochs", id="exponential by step",
    ),
    pytest.param(
        partial(Scheduled, Recurrent, step_lr(10), "step"),
        partial(Scheduled, Recurrent, step_lr(10)),
        {"data": sequences()}, "StepLR", "as if updates were epochs", id="steps of epochs by step",
    ),
    pytest.param(
        partial(Scheduled, mlp, lambda m, o: lr.MultiStepLR(o, [3]), "step"),
        partial(Scheduled, mlp, lambda m, o: lr.MultiStepLR(o, [3])), {"epochs": 5},
        "MultiStepLR", "and stays there", id="milestone of epochs by step",
    ),
    pytest.param(
        partial(Scheduled, mlp, linear(batches), "step"),
        partial(Scheduled, mlp, linear(lambda m: m.updates), "step"),
        {"epochs": 6, "accumulate_grad_batches": 4},
        "LambdaLR", "4 batches share one update", id="accumulation left out",
    ),
    pytest.param(
        partial(Scheduled, mlp, linear(lambda m: m.updates // 4), "step"),
        partial(Scheduled, mlp, linear(lambda m: m.updates), "step"), {"epochs": 5},
        "LambdaLR", "next to nothing is learned", id="over after a quarter",
    ),
    pytest.param(
        partial(Scheduled, mlp, lambda m, o: lr.CosineAnnealingLR(o, 5)),
        partial(Scheduled, mlp, lambda m, o: lr.CosineAnnealingLR(o, 10)),
        {"epochs": 10, "data": digits(n=256)},
        "CosineAnnealingLR", "climbs back", id="cosine goes up again",
    ),
    pytest.param(
        partial(Scheduled, mlp, lambda m, o: lr.ReduceLROnPlateau(o, patience=1), "step"),
        partial(Scheduled, mlp, lambda m, o: lr.ReduceLROnPlateau(o, patience=1)), {"epochs": 5},
        "ReduceLROnPlateau", "next to nothing is learned", id="plateau by step",
    ),
    pytest.param(
        partial(Scheduled, mlp, lambda m, o: lr.CosineAnnealingLR(o, 4), "step", frequency=20),
        partial(Scheduled, mlp, lambda m, o: lr.CosineAnnealingLR(o, 4), "step", frequency=16),
        {"epochs": 4}, "CosineAnnealingLR", "is never called", id="frequency beyond the epoch",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("bug", "repaired", "settings", "where", "said"), CASES)
def test_pair(bug, repaired, settings, where, said):
    settings = {"data": DATA, "epochs": 3} | settings
    found = fit(bug, **settings)
    assert NAME in names(found)
    assert places(found, NAME) == {where}
    assert said in next(f.message for f in found.findings if f.name == NAME)
    assert alarms(fit(repaired, **settings)) == []


class Beside(Scheduled):
    """The interval lies beside the scheduler, where it is ignored."""

    def __init__(self, broken):
        super().__init__(mlp, one_cycle)
        self.broken = broken

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=1e-3)
        scheduler = self.schedule(self, optimizer)
        if self.broken:
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "interval": "step"}
        config = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class NotReturned(Scheduled):
    """The scheduler was built, and forgotten in the return."""

    def __init__(self, broken):
        super().__init__(Recurrent, cosine, "step")
        self.broken = broken

    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        return optimizers["optimizer"] if self.broken else optimizers


class Twins(Scheduled):
    """The scheduler drives an optimizer that was built before the one that trains."""

    def __init__(self, broken):
        super().__init__(mlp, cosine, "step")
        self.broken = broken

    def configure_optimizers(self):
        first = optim.Adam(self.parameters(), lr=3e-3)
        self.scheduler = lr.ExponentialLR(first, 0.8)
        return optim.Adam(self.parameters(), lr=3e-3) if self.broken else first

    def on_train_epoch_end(self):
        self.scheduler.step()


class Rebuilt(Scheduled):
    """Optimizer and scheduler are built anew in each epoch."""

    def __init__(self, broken):
        super().__init__(mlp, cosine, "step", rate=1e-3)
        self.broken = broken

    def on_train_epoch_start(self):
        if self.broken and self.current_epoch:
            self.trainer.strategy.setup_optimizers(self.trainer)


class Overridden(Scheduled):
    """The hook that is to call the scheduler does not."""

    def __init__(self, broken):
        super().__init__(mlp, cosine, "step")
        self.broken = broken

    def lr_scheduler_step(self, scheduler, metric):
        if not self.broken:
            scheduler.step()


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(Beside, DATA, "OneCycleLR", id="interval beside"),
        pytest.param(NotReturned, sequences(), "Adam", id="not returned"),
        pytest.param(Twins, DATA, "Adam", id="of another optimizer"),
        pytest.param(Rebuilt, DATA, "CosineAnnealingLR", id="built anew"),
        pytest.param(Overridden, DATA, "CosineAnnealingLR", id="hook that does nothing"),
    ],
)
def test_program(program, data, where):
    found = fit(lambda: program(True), data, epochs=3)
    assert NAME in names(found)
    assert places(found, NAME) == {where}
    assert alarms(fit(lambda: program(False), data, epochs=3)) == []


class Manual(pl.LightningModule):
    """Manual optimization of functional code; the scheduler is called where the user calls it."""

    def __init__(self, schedule, when, every=1):
        super().__init__()
        self.automatic_optimization = False
        self.schedule, self.when, self.every = schedule, when, every
        self.first = nn.Parameter(nn.init.kaiming_uniform_(nn.Linear(8, 32).weight.detach()))
        self.second = nn.Parameter(nn.Linear(32, 1).weight.detach())

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = F.mse_loss(F.linear(F.linear(x, self.first).tanh(), self.second), y)
        self.manual_backward(loss / self.every)
        if (batch_idx + 1) % self.every:
            return
        optimizer.step()
        optimizer.zero_grad()
        if self.when == "step":
            self.lr_schedulers().step()

    def on_train_epoch_end(self):
        if self.when == "epoch":
            self.lr_schedulers().step()

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [self.schedule(self, optimizer)]

    @property
    def updates(self):
        return self.trainer.estimated_stepping_batches


def shared_by_four(module, optimizer):
    return lr.CosineAnnealingLR(optimizer, module.updates // 4)


@pytest.mark.parametrize(
    ("bug", "repaired"),
    [
        pytest.param((cosine, ""), (cosine, "step"), id="never called"),
        pytest.param((one_cycle, "epoch"), (one_cycle, "step"), id="called by epoch"),
        pytest.param((cosine_of_epochs, "step"), (cosine_of_epochs, "epoch"), id="called by step"),
        pytest.param((cosine, "step", 4), (shared_by_four, "step", 4), id="accumulation"),
        pytest.param((exponential(0.7), "step"), (exponential(0.7), "epoch"), id="exponential"),
    ],
)
def test_manual(bug, repaired):
    found = fit(lambda: Manual(*bug), regression(), epochs=4)
    assert NAME in names(found)
    assert alarms(fit(lambda: Manual(*repaired), regression(), epochs=4)) == []


def test_told_where_the_run_stops_early():
    stop = EarlyStopping("loss", min_delta=9.0, patience=1, check_on_train_epoch_end=True)
    found = fit(lambda: Scheduled(mlp, one_cycle), DATA, epochs=6, callbacks=(stop,))
    assert NAME in names(found)
