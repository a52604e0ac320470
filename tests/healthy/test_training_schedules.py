"""Healthy training, by optimizer, learning rate, precision and how the steps are made."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler as lr

from tests.runs import Program, alarms, digits, fit, regression

ADAM = partial(optim.Adam, lr=1e-3)
SGD = partial(optim.SGD, lr=0.1, momentum=0.9)


def mlp():
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class Scheduled(Program):
    """A program whose learning rate follows a schedule."""

    def __init__(self, schedule, interval="step", optimizer=ADAM, net=mlp):
        super().__init__(net(), optimizer=optimizer)
        self.schedule, self.interval = schedule, interval

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        config = {"scheduler": self.schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": "loss"}}


def warm_up(steps):
    return partial(lr.LambdaLR, lr_lambda=lambda step: min(1.0, step / steps))


def warm_up_and_decay(optimizer):
    up = lr.LinearLR(optimizer, start_factor=1e-6, total_iters=40)
    down = lr.CosineAnnealingLR(optimizer, T_max=120)
    return lr.SequentialLR(optimizer, [up, down], milestones=[40])


@pytest.mark.parametrize(
    ("schedule", "interval"),
    [
        pytest.param(warm_up(30), "step", id="warm-up from 0 over 30 steps"),
        pytest.param(warm_up(500), "step", id="warm-up from 0 longer than the run"),
        pytest.param(warm_up(3), "epoch", id="warm-up from 0 by epoch"),
        pytest.param(
            partial(lr.LambdaLR, lr_lambda=lambda step: min(1.0, (step / 300) ** 4)),
            "step",
            id="warm-up whose first steps are below the resolution of a weight",
        ),
        pytest.param(warm_up_and_decay, "step", id="warm-up from 1e-9, then cosine"),
        pytest.param(partial(lr.CosineAnnealingLR, T_max=160), "step", id="cosine to 0"),
        pytest.param(
            partial(lr.PolynomialLR, total_iters=60), "step", id="linear to 0, then rest at 0"
        ),
        pytest.param(partial(lr.ReduceLROnPlateau, patience=0, factor=1e-3), "epoch", id="plateau"),
        pytest.param(partial(lr.OneCycleLR, max_lr=1e-2, total_steps=170), "step", id="one cycle"),
        pytest.param(partial(lr.CosineAnnealingWarmRestarts, T_0=20), "step", id="warm restarts"),
        pytest.param(partial(lr.ExponentialLR, gamma=0.9), "step", id="exponential decay"),
        pytest.param(partial(lr.MultiStepLR, milestones=[2, 3]), "epoch", id="milestones"),
    ],
)
def test_schedules(schedule, interval):
    assert alarms(fit(lambda: Scheduled(schedule, interval), digits(), epochs=5)) == []


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(partial(optim.SGD, lr=0.1), id="sgd"),
        pytest.param(partial(optim.SGD, lr=1e-2), id="sgd 0.01"),
        pytest.param(SGD, id="sgd momentum"),
        pytest.param(partial(SGD, nesterov=True, weight_decay=5e-4), id="nesterov"),
        pytest.param(partial(optim.Adam, lr=3e-4), id="adam 3e-4"),
        pytest.param(partial(optim.Adam, lr=1e-2), id="adam 1e-2"),
        pytest.param(partial(optim.AdamW, lr=1e-3, weight_decay=0.1), id="adamw"),
        pytest.param(partial(optim.Adam, lr=1e-3, amsgrad=True), id="amsgrad"),
        pytest.param(partial(optim.RMSprop, lr=1e-3), id="rmsprop"),
        pytest.param(partial(optim.Adagrad, lr=1e-2), id="adagrad"),
        pytest.param(partial(optim.Adadelta, lr=1.0), id="adadelta"),
        pytest.param(partial(optim.NAdam, lr=2e-3), id="nadam"),
        pytest.param(partial(optim.Adam, lr=torch.tensor(1e-3)), id="learning rate as a tensor"),
    ],
)
@pytest.mark.parametrize("net", [pytest.param(mlp, id="mlp"), pytest.param(cnn, id="cnn")])
def test_optimizers(net, optimizer):
    data = digits(flat=net is mlp)
    assert alarms(fit(lambda: Program(net(), optimizer=optimizer), data, epochs=3)) == []


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({"accumulate_grad_batches": 4}, id="accumulation"),
        pytest.param({"accumulate_grad_batches": 5}, id="accumulation with a rest"),
        pytest.param({"gradient_clip_val": 0.5}, id="clipping"),
        pytest.param(
            {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, id="clip by value"
        ),
        pytest.param({"precision": "bf16-mixed"}, id="bf16-mixed"),
        pytest.param({"precision": "64-true"}, id="double precision"),
        pytest.param({"limit_train_batches": 3, "epochs": 20}, id="short epochs"),
        pytest.param({"overfit_batches": 1, "epochs": 150}, id="one batch over and over"),
        pytest.param({"fast_dev_run": 3}, id="fast dev run"),
    ],
)
@pytest.mark.parametrize("net", [pytest.param(mlp, id="mlp"), pytest.param(cnn, id="cnn")])
def test_trainer_settings(net, trainer):
    settings = {"epochs": 5} | trainer
    assert alarms(fit(lambda: Program(net()), digits(flat=net is mlp), **settings)) == []


@pytest.mark.parametrize(
    "callbacks",
    [
        pytest.param(
            lambda: (pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2),),
            id="stochastic weight averaging",
        ),
        pytest.param(
            lambda: (
                pl.callbacks.EarlyStopping("loss", patience=2, check_on_train_epoch_end=True),
            ),
            id="early stopping",
        ),
        pytest.param(
            lambda: (pl.callbacks.GradientAccumulationScheduler({0: 1, 2: 4}),),
            id="accumulation scheduler",
        ),
    ],
)
def test_callbacks(callbacks):
    assert alarms(fit(lambda: Program(mlp()), digits(), epochs=5, callbacks=callbacks())) == []


class Groups(Program):
    """The usual fine-tuning recipe: a small rate for the body, no decay for biases."""

    def configure_optimizers(self):
        body, head = self.net[:-1], self.net[-1]
        weights = [p for p in body.parameters() if p.ndim > 1]
        biases = [p for p in body.parameters() if p.ndim <= 1]
        return optim.AdamW(
            [
                {"params": weights, "lr": 1e-5},
                {"params": biases, "lr": 1e-5, "weight_decay": 0.0},
                {"params": head.parameters(), "lr": 1e-2},
            ]
        )


def test_groups_with_different_rates():
    assert alarms(fit(lambda: Groups(mlp()), digits(), epochs=4)) == []


class Lbfgs(Program):
    def configure_optimizers(self):
        return optim.LBFGS(self.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: nn.Linear(8, 1), id="linear"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), id="mlp"
        ),
    ],
)
def test_lbfgs(net):
    data = regression(batch=512)
    assert alarms(fit(lambda: Lbfgs(net(), F.mse_loss), data, epochs=20)) == []


class Manual(Program):
    """Manual optimization, with gradients of several batches in one step."""

    def __init__(self, net, every):
        super().__init__(net)
        self.automatic_optimization = False
        self.every = every

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = self.loss(self(x), y) / self.every
        self.manual_backward(loss)
        if (batch_idx + 1) % self.every == 0:
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("every", [1, 4])
def test_manual_accumulation(every):
    assert alarms(fit(lambda: Manual(mlp(), every), digits(), epochs=5)) == []


class TwoPasses(Program):
    """Sharpness-aware minimization: up, a second gradient, back, and a step."""

    def __init__(self, net):
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in self.parameters()]).norm()
            ups = [0.05 * p.grad / (norm + 1e-12) for p in self.parameters()]
            for p, up in zip(self.parameters(), ups, strict=True):
                p.add_(up)
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(x), y))
        with torch.no_grad():
            for p, up in zip(self.parameters(), ups, strict=True):
                p.sub_(up)
        optimizer.step()
        optimizer.zero_grad()
        return loss


def test_sharpness_aware():
    assert alarms(fit(lambda: TwoPasses(mlp()), digits(), epochs=4)) == []


@pytest.mark.parametrize("net", [pytest.param(mlp, id="mlp"), pytest.param(cnn, id="cnn")])
def test_resumed(net, tmp_path):
    data = digits(flat=net is mlp)
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Program(net()), data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert alarms(fit(lambda: Program(net()), data, epochs=4, resume=tmp_path / "half.ckpt")) == []
