"""Learning rates that look wrong by their number, and are not."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner import Tuner
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite
from tests.runs import Program, alarms, digits, fit, quiet_trainer, regression, sequences


def mlp():
    layers = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    return nn.Sequential(*layers)


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


def trained(net, data, steps=150, lr=2e-3):
    optimizer = optim.Adam(net.parameters(), lr=lr)
    batches = list(data)
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


class Scheduled(Program):
    """A scheduler that is called once an update."""

    def __init__(self, net, optimizer, schedule, loss=F.cross_entropy):
        super().__init__(net, loss, optimizer)
        self.schedule = schedule

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


def fine_tuned():
    return Program(trained(mlp(), digits()), optimizer=partial(optim.AdamW, lr=1e-5))


def fine_tuned_slowly():
    return Program(trained(Encoder(), sequences()), optimizer=partial(optim.SGD, lr=1e-3))


def new_head():
    net = trained(mlp(), digits())
    net[4] = nn.Linear(64, 10)
    groups = [
        {"params": [*net[0].parameters(), *net[2].parameters()], "lr": 1e-5},
        {"params": net[4].parameters(), "lr": 1e-2},
    ]
    return Program(net, optimizer=lambda _: optim.AdamW(groups))


def frozen_body():
    net = trained(mlp(), digits())
    net[4] = nn.Linear(64, 10)
    net[0].requires_grad_(False)
    net[2].requires_grad_(False)
    return Program(net, optimizer=lambda _: optim.Adam(net[4].parameters(), lr=1e-5))


def warm_up():
    def schedule(optimizer):
        return optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 64))

    return Scheduled(Encoder(), partial(optim.AdamW, lr=3e-4), schedule)


def cosine():
    def schedule(optimizer):
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, 64)

    return Scheduled(cnn(), partial(optim.SGD, lr=0.1, momentum=0.9), schedule)


def one_cycle():
    def schedule(optimizer):
        return optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=64)

    return Scheduled(mlp(), partial(optim.SGD, lr=0.1, momentum=0.9), schedule)


def by_layer():
    net = mlp()
    groups = [{"params": net[i].parameters(), "lr": 1e-2 * 0.1 ** (2 - i / 2)} for i in (0, 2, 4)]
    return Program(net, optimizer=lambda _: optim.AdamW(groups))


def high_rate_with_batch_norm():
    return Program(cnn(), optimizer=partial(optim.SGD, lr=0.5))


def tutorial_rate():
    return Program(mlp(), optimizer=partial(optim.SGD, lr=1e-3, momentum=0.9))


def low_rate_for_a_long_run():
    return Program(mlp(), optimizer=partial(optim.Adam, lr=1e-5))


class Lars(optim.SGD):
    """Scales the step of each layer by its size: the number of the rate says nothing."""

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                trust = 0.01 * p.norm() / p.grad.norm() if p.ndim > 1 else 1e-3
                p.data.add_(p.grad * trust, alpha=-group["lr"])
        return loss


def lars():
    return Program(mlp(), optimizer=partial(Lars, lr=4.0))


class ScheduleFree(optim.SGD):
    """Steps from an interpolation with the average of the weights."""

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    state.setdefault("z", p.clone())
                    state.setdefault("x", p.clone())
                    state["k"] = state.get("k", 0) + 1
                    state["z"].sub_(p.grad, alpha=group["lr"])
                    state["x"].lerp_(state["z"], 1.0 / state["k"])
                    p.copy_(state["z"].lerp(state["x"], 0.9))
        return loss


def schedule_free():
    return Program(mlp(), optimizer=partial(ScheduleFree, lr=1.0))


def hard_task():
    """Half of the labels are random: the loss comes down slowly at any rate."""
    torch.manual_seed(0)
    x, y = digits().dataset.tensors
    noisy = torch.where(torch.rand(len(y)) < 0.5, torch.randint(0, 10, y.shape), y)
    return DataLoader(TensorDataset(x, noisy), batch_size=32, shuffle=True)


def adam():
    return Program(mlp(), optimizer=partial(optim.Adam, lr=1e-3))


def regressor():
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    return Program(net, F.mse_loss, partial(optim.SGD, lr=0.05))


def whole_batch():
    """Gradient descent at the edge of stability: not every step goes down."""
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    return Program(net, F.mse_loss, partial(optim.SGD, lr=0.4))


def noisy_targets():
    """Little of the targets can be told, and their mean is off: the first gain is the bias."""
    x, y = regression(n=1024).dataset.tensors
    y = 2.0 + 0.3 * y + torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)


def large_steps_on_noise():
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    return Program(net, F.mse_loss, partial(optim.Adam, lr=0.03))


def frequent_tags():
    """A few classes are most of the targets: equal logits are far above their shares."""
    generator = torch.Generator().manual_seed(0)
    shares = 1.0 / torch.arange(1.0, 25.0) ** 2
    ids = torch.multinomial(shares, 256 * 16, replacement=True, generator=generator).view(256, 16)
    other = torch.multinomial(shares, 256 * 16, replacement=True, generator=generator)
    tags = torch.where(torch.rand(ids.shape, generator=generator) < 0.2, ids, other.view_as(ids))
    return DataLoader(TensorDataset(ids, tags), batch_size=16, shuffle=True)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(24, 32), nn.Linear(32, 24)
        self.body = nn.LSTM(32, 32, batch_first=True)

    def forward(self, ids):
        return self.head(self.body(self.table(ids))[0]).transpose(1, 2)


def large_steps_on_tags():
    return Program(Tagger(), optimizer=partial(optim.Adam, lr=0.02))


def momentum_on_tags():
    return Program(Tagger(), optimizer=partial(optim.SGD, lr=1.0, momentum=0.9))


PROGRAMS = {
    "fine-tuning at 1e-5": (fine_tuned, digits, {}),
    "fine-tuning with SGD": (fine_tuned_slowly, sequences, {}),
    "a new head, the body at 1e-5": (new_head, digits, {}),
    "a frozen body, the head at 1e-5": (frozen_body, digits, {}),
    "warm-up over the whole run": (warm_up, sequences, {"epochs": 4}),
    "cosine to 0": (cosine, partial(digits, flat=False), {}),
    "one cycle": (one_cycle, digits, {}),
    "layer-wise decay": (by_layer, digits, {}),
    "a high rate with batch norm": (high_rate_with_batch_norm, partial(digits, flat=False), {}),
    "the rate of a tutorial": (tutorial_rate, digits, {}),
    "a low rate for a long run": (
        low_rate_for_a_long_run,
        digits,
        {"epochs": 2000, "limit_train_batches": 32, "callbacks": "stop"},
    ),
    "lars": (lars, digits, {}),
    "schedule-free": (schedule_free, digits, {}),
    "a hard task": (adam, hard_task, {}),
    "a short run": (adam, partial(digits, n=192), {"epochs": 1}),
    "regression": (regressor, regression, {}),
    "large steps, noisy targets with an offset": (large_steps_on_noise, noisy_targets, {}),
    "large steps, tags that tell little": (large_steps_on_tags, frequent_tags, {"epochs": 5}),
    "momentum, tags that tell little": (momentum_on_tags, frequent_tags, {"epochs": 5}),
    "the whole data in one batch": (
        whole_batch,
        partial(regression, n=256, batch=256),
        {"epochs": 80},
    ),
}


class Stop(pl.Callback):
    """Ends a run that is planned to be long."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step > 80


@pytest.mark.parametrize(("module", "data", "settings"), PROGRAMS.values(), ids=list(PROGRAMS))
def test_silent(module, data, settings):
    settings = dict(settings)
    if settings.pop("callbacks", ""):
        settings["callbacks"] = (Stop(),)
    assert alarms(fit(module, data(), **settings)) == []


class Adversaries(pl.LightningModule):
    """A generator and a discriminator with rates a hundred times apart."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))
        self.judge = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        real, (first, second) = batch[0], self.optimizers()
        fake = self.generator(torch.randn(len(real), 4))
        for optimizer, loss in (
            (second, lambda: self._judged(real, 1.0) + self._judged(fake.detach(), 0.0)),
            (first, lambda: self._judged(fake, 1.0)),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()

    def _judged(self, x, label):
        out = self.judge(x)
        return F.binary_cross_entropy_with_logits(out, torch.full_like(out, label))

    def configure_optimizers(self):
        return (
            optim.Adam(self.generator.parameters(), lr=1e-4),
            optim.Adam(self.judge.parameters(), lr=1e-2),
        )


def test_silent_on_adversaries_with_different_rates():
    assert alarms(fit(Adversaries, regression())) == []


def test_silent_while_the_learning_rate_is_searched():
    class Searched(Program):
        def __init__(self):
            super().__init__(mlp())
            self.lr = 1e-3

        def configure_optimizers(self):
            return optim.Adam(self.parameters(), lr=self.lr)

    pl.seed_everything(0, verbose=False)
    suite = DebugSuite(sinks=[])
    trainer, model = quiet_trainer(callbacks=[suite], max_epochs=2), Searched()
    weights = copy.deepcopy(model.state_dict())
    found = Tuner(trainer).lr_find(model, digits(), num_training=60)
    assert found is not None
    assert alarms(suite) == []
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    model.lr = 1e-3
    trainer.fit(model, digits())
    assert alarms(suite) == []


class LanguageModel(Program):
    """Steps of SGD at a rate of 20, with gradients that are clipped by one of three hands."""

    def __init__(self, clipped):
        super().__init__(nn.Embedding(40, 64), optimizer=partial(optim.SGD, lr=20.0))
        self.rnn = nn.LSTM(64, 64, 2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(64, 40)
        for module in (self.net, self.head):
            nn.init.uniform_(module.weight, -0.1, 0.1)
        self.clipped = clipped

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        logits = self.head(self.rnn(self.net(ids[:, :-1]))[0])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def on_before_optimizer_step(self, optimizer):
        if self.clipped == "in a hook":
            nn.utils.clip_grad_norm_(self.parameters(), 0.25)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        limit = 0.25 if self.clipped == "in the method for it" else gradient_clip_val
        self.clip_gradients(optimizer, limit, "norm")


def chains():
    """Sequences in which few tokens follow each other, and some are frequent."""
    draw = torch.Generator().manual_seed(0)
    odds = torch.rand(40, 40, generator=draw) ** 8 / torch.arange(1, 41)
    ids = torch.randint(0, 40, (2000, 1), generator=draw)
    for _ in range(24):
        ids = torch.cat([ids, torch.multinomial(odds[ids[:, -1]], 1, generator=draw)], 1)
    return DataLoader(TensorDataset(ids), batch_size=20, shuffle=True)


@pytest.mark.parametrize("clipped", ["in a hook", "in the method for it", "by the trainer"])
def test_large_rates_that_clipping_bounds(clipped):
    limit = {"gradient_clip_val": 0.25} if clipped == "by the trainer" else {}
    assert alarms(fit(lambda: LanguageModel(clipped), chains(), epochs=3, **limit)) == []
