"""Optimizers that run and change nothing, and the same programs mended."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, names, places, quiet_trainer, sequences


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Rates(Program):
    """The rate of one group was meant as a switch, and left off."""

    def __init__(self, broken):
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
            )
        )
        self.rate = 0.0 if broken else 1e-3

    def configure_optimizers(self):
        groups = [
            {"params": self.net[0].parameters(), "lr": self.rate},
            {"params": self.net[3].parameters()},
        ]
        return optim.AdamW(groups, lr=1e-3)


class Restored(Program):
    """The best weights so far are loaded again after each batch, not at the end."""

    def __init__(self, broken):
        super().__init__(mlp())
        self.broken = broken

    def on_train_start(self):
        self.best = copy.deepcopy(self.net.state_dict())

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.broken:
            self.net.load_state_dict(self.best)


class Clipped(Program):
    """The embedding is set back to pretrained vectors at each step."""

    def __init__(self, broken):
        net = nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(256, 2))
        super().__init__(net)
        self.register_buffer("vectors", torch.randn(20, 16))
        net[0].weight.data.copy_(self.vectors)
        self.broken = broken

    def training_step(self, batch, batch_idx):
        if self.broken:
            self.net[0].weight.data.copy_(self.vectors)
        return super().training_step(batch, batch_idx)


class Schedule(Program):
    """Integer division makes the factor 0 for the first thousand steps."""

    def __init__(self, broken, interval="step"):
        super().__init__(mlp())
        self.broken, self.interval = broken, interval

    def configure_optimizers(self):
        optimizer = optim.SGD(self.parameters(), lr=0.1)
        factor = (lambda step: step // 1000) if self.broken else (lambda step: min(1, step / 10))
        schedule = lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": self.interval}]


class Wrong(pl.LightningModule):
    """Manual optimization of two parts; the step of the second was copied and not renamed."""

    def __init__(self, broken):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        body, head = self.optimizers()
        body.zero_grad()
        head.zero_grad()
        loss = F.cross_entropy(self.head(self.encoder(x)), y)
        self.manual_backward(loss)
        body.step()
        (body if self.broken else head).step()
        return loss

    def configure_optimizers(self):
        return (
            optim.Adam(self.encoder.parameters(), lr=1e-3),
            optim.SGD(self.head.parameters(), lr=0.1),
        )


class Forgotten(pl.LightningModule):
    """Manual optimization without a step."""

    def __init__(self, broken):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.table, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.cross_entropy(self.head(self.rnn(self.table(x))[1][-1]), y)
        self.manual_backward(loss)
        if not self.broken:
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


EVERY = {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            Rates, digits(flat=False), {"net.0.weight", "net.0.bias"}, id="cnn, group at rate 0"
        ),
        pytest.param(Restored, digits(), EVERY, id="mlp, weights restored after each step"),
        pytest.param(Clipped, sequences(), {"net.0.weight"}, id="embedding set back"),
        pytest.param(Schedule, digits(), EVERY, id="mlp, schedule stays at 0"),
        pytest.param(
            partial(Schedule, interval="epoch"), digits(), EVERY, id="schedule stays at 0, by epoch"
        ),
        pytest.param(
            Wrong, digits(), {"head.weight", "head.bias"}, id="manual, the wrong optimizer steps"
        ),
        pytest.param(Forgotten, sequences(), {"Adam"}, id="manual, no optimizer steps"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "weights-not-updated" in names(broken)
    assert where == places(broken, "weights-not-updated")
    assert alarms(fit(lambda: program(False), data)) == []


class Returning(Program):
    """The loss is logged and not returned."""

    def __init__(self, broken, net):
        super().__init__(net)
        self.broken = broken

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if self.broken else loss


class Hook(Program):
    """optimizer_step runs the closure, and forgets the step."""

    def __init__(self, broken, net):
        super().__init__(net)
        self.broken = broken

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        if self.broken:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


class ClearedByHand(Program):
    """zero_grad() comes after backward; the gradients are gone, or zeros."""

    def __init__(self, broken, net, to_none):
        super().__init__(net)
        self.automatic_optimization = False
        self.broken, self.to_none = broken, to_none

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if self.broken:
            optimizer.zero_grad(set_to_none=self.to_none)
        optimizer.step()


class Guarded(Program):
    """Steps with a gradient that is not finite are to be left out; the test is the wrong way."""

    def __init__(self, broken, net):
        super().__init__(net)
        self.broken = broken

    def on_after_backward(self):
        finite = all(torch.isfinite(p.grad).all() for p in self.parameters())
        if finite == self.broken:
            self.zero_grad()


def lstm():
    return nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(256, 2))


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(lambda b: Returning(b, mlp()), digits(), id="mlp, nothing returned"),
        pytest.param(lambda b: Returning(b, lstm()), sequences(), id="text, nothing returned"),
        pytest.param(lambda b: Guarded(b, mlp()), digits(), id="mlp, cleared by a guard"),
        pytest.param(
            lambda b: ClearedByHand(b, lstm(), to_none=True), sequences(), id="text, cleared"
        ),
        pytest.param(
            lambda b: ClearedByHand(b, mlp(), to_none=False), digits(), id="mlp, set to zero"
        ),
        pytest.param(lambda b: Hook(b, mlp()), digits(), id="mlp, no step in the hook"),
        pytest.param(lambda b: Hook(b, lstm()), sequences(), id="text, no step in the hook"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_nothing_steps(program, data):
    broken = fit(lambda: program(True), data)
    assert places(broken, "weights-not-updated") == {"Adam"}
    assert broken.findings[0].name == "weights-not-updated"
    assert alarms(fit(lambda: program(False), data)) == []


class Again(Program):
    """Every epoch starts from the beginning: drawn again, or loaded again."""

    def __init__(self, broken, net, how):
        super().__init__(net, optimizer=partial(optim.SGD, lr=0.1))
        self.broken, self.how = broken, how
        self.start = copy.deepcopy(net.state_dict())

    def on_train_epoch_start(self):
        if self.broken and self.how == "load":
            self.net.load_state_dict(self.start)
        elif self.broken:
            self.net.apply(self.draw)

    @staticmethod
    def draw(module):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


class AgainAtTheEnd(Again):
    """The same, when an epoch is over."""

    def on_train_epoch_start(self):
        pass

    def on_train_epoch_end(self):
        super().on_train_epoch_start()


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(lambda b: Again(b, mlp(), "draw"), digits(), id="mlp, initialised"),
        pytest.param(lambda b: Again(b, cnn(), "load"), digits(flat=False), id="cnn, loaded"),
        pytest.param(
            lambda b: AgainAtTheEnd(b, cnn(), "draw"), digits(flat=False), id="cnn, at the end"
        ),
        pytest.param(lambda b: AgainAtTheEnd(b, lstm(), "load"), sequences(), id="text, loaded"),
    ],
)
def test_every_epoch_starts_anew(program, data):
    broken = fit(lambda: program(True), data, epochs=4, limit_train_batches=12)
    assert places(broken, "weights-not-updated") == {"epoch start"}
    assert alarms(fit(lambda: program(False), data, epochs=4, limit_train_batches=12)) == []


class Finetuned(pl.LightningModule):
    """A backbone that a callback unfreezes after the first epoch."""

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.backbone(x)), y)

    def configure_optimizers(self):
        return optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def flat():
    return Finetuned(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10))


def images():
    features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten())
    return Finetuned(features, nn.Linear(512, 10))


class Repaired(pl.callbacks.BackboneFinetuning):
    """Unfreezes what had been unfrozen before."""

    def on_train_epoch_start(self, trainer, pl_module):
        super().on_train_epoch_start(trainer, pl_module)
        if trainer.current_epoch > self.unfreeze_backbone_at_epoch:
            pl_module.backbone.requires_grad_(True)


@pytest.mark.parametrize("program", [flat, images])
@pytest.mark.parametrize("callback", [pl.callbacks.BackboneFinetuning, Repaired])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_resumed_and_frozen(program, callback, tmp_path):
    data = digits(flat=program is flat)
    settings = {"unfreeze_backbone_at_epoch": 1, "backbone_initial_lr": 1e-4}
    saved = tmp_path / "last.ckpt"
    pl.seed_everything(0, verbose=False)
    before = callback(**settings)
    trainer = quiet_trainer(max_epochs=2, callbacks=[before], limit_train_batches=8)
    trainer.fit(program(), data)
    trainer.save_checkpoint(saved)
    suite = fit(program, data, epochs=4, callbacks=(callback(**settings),), resume=saved)
    if callback is Repaired:
        assert alarms(suite) == []
        return
    [finding] = [f for f in suite.findings if f.name == "weights-not-updated"]
    assert finding.severity is Severity.WARNING
    assert set(finding.places) == {"backbone.0.weight", "backbone.0.bias"}
