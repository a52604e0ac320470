"""Healthy programs that are hard to train on two samples: none raises an alarm."""

import math

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.runs import Program, alarms, digits, fit, quiet_trainer, regression, sequences


def body(inputs=64, outputs=10, *more):
    """Return a small net of two layers."""
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), *more, nn.Linear(32, outputs))


class Stepping(Program):
    """A program whose loss is a function of the module and the batch."""

    def __init__(self, net, step, optimizer=optim.Adam):
        super().__init__(net, optimizer=optimizer)
        self.step = step

    def training_step(self, batch, batch_idx):
        return self.step(self, batch)


class Scheduled(Program):
    """A learning rate that comes up from zero."""

    def configure_optimizers(self):
        optimizer = optim.SGD(self.parameters(), 0.1, momentum=0.9)
        schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 20))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class ByHand(Program):
    """A learning rate that comes up from zero, set in a hook."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, self.trainer.global_step / 20)
        optimizer.step(closure=optimizer_closure)


class Normalised(Program):
    """Batches are normalised on their way to the device: once, and not twice."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        assert float(x.max()) <= 1.0, "has been here before"
        return x * 16.0 / 4.0 - 1.0, y


class Prepared(Program):
    """Builds what the step needs when the run starts."""

    def on_train_start(self):
        self.weights = torch.ones(10)

    def on_fit_start(self):
        self.seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += 1
        x, y = batch
        return F.cross_entropy(self(x), y, weight=self.weights)


class Named(Program):
    """Batches are dictionaries with names beside the data."""

    def training_step(self, batch, batch_idx):
        assert len(batch["name"]) == len(batch["x"])
        return F.cross_entropy(self(batch["x"]), batch["y"])


class Stream(IterableDataset):
    """Endless for all that anyone knows."""

    def __iter__(self):
        x, y = digits().dataset.tensors
        yield from zip(x[:640], y[:640], strict=True)


def mixed(module, batch):
    x, y = batch
    other = torch.randperm(len(x))
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    out = module(share * x + (1 - share) * x[other])
    return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])


def denoised(module, batch):
    x, _ = batch
    noise, share = torch.randn_like(x), torch.rand(len(x), 1)
    seen = share.sqrt() * x + (1 - share).sqrt() * noise
    return F.mse_loss(module(torch.cat([seen, share], 1)), noise)


def contrasted(module, batch):
    x, _ = batch
    left = F.normalize(module(x + 0.1 * torch.randn_like(x)), dim=1)
    right = F.normalize(module(x + 0.1 * torch.randn_like(x)), dim=1)
    return F.cross_entropy(left @ right.T / 0.2, torch.arange(len(x)))


def bootstrapped(module, batch):
    """The target is what the model itself says of another view, held still."""
    x, _ = batch
    with torch.no_grad():
        target = module(x + 0.1 * torch.randn_like(x))
    return F.mse_loss(F.normalize(module(x), dim=1), F.normalize(target, dim=1))


def variational(module, batch):
    """The prior outweighs the reconstruction on purpose."""
    x, _ = batch
    mean, spread = module.net[0](x).chunk(2, 1)
    code = mean + torch.randn_like(mean) * (spread / 2).exp()
    prior = 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1).mean()
    return F.mse_loss(module.net[1](code), x, reduction="none").sum(1).mean() + 4.0 * prior


def rewarded(module, batch):
    """A bandit: no action is known to be the right one."""
    x, y = batch
    policy = torch.distributions.Categorical(logits=module(x))
    action = policy.sample()
    reward = (action == y).float()
    return -(policy.log_prob(action) * (reward - reward.mean())).mean()


def quantile(module, batch):
    x, y = batch
    apart = y - module(x)
    return torch.maximum(0.9 * apart, -0.1 * apart).mean()


def ordinal(module, batch):
    x, y = batch
    return F.binary_cross_entropy_with_logits(module(x), (y[:, None] > torch.arange(9)).float())


def slow(parameters):
    """Return plain gradient descent in steps that are small for two samples."""
    return optim.SGD(parameters, lr=1e-3)


def searching(parameters):
    """Return an optimizer that calls its closure several times a step."""
    return optim.LBFGS(parameters, lr=0.1, max_iter=3)


def dictionaries():
    """Digits with names."""
    x, y = digits().dataset.tensors
    items = [
        {"x": a, "y": b, "name": f"digit {i}"} for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    return DataLoader(items[:320], batch_size=32, shuffle=True)


def tokens():
    """Sequences, and the same sequences one token later."""
    ids = sequences().dataset.tensors[0]
    return DataLoader(TensorDataset(ids[:, :-1], ids[:, 1:]), batch_size=32, shuffle=True)


def next_token(module, batch):
    x, y = batch
    return F.cross_entropy(module(x).transpose(1, 2), y)


def pretrained():
    """Return a net that knows the digits already, and is tuned in tiny steps."""
    torch.manual_seed(0)
    module = Program(body())
    quiet_trainer(max_epochs=4).fit(module, digits())
    return Program(module.net, optimizer=lambda p: optim.Adam(p, 1e-5))


PROGRAMS = [
    pytest.param(
        lambda: Program(body(), lambda a, b: F.cross_entropy(a, b, label_smoothing=0.3)),
        digits(),
        id="label smoothing",
    ),
    pytest.param(lambda: Stepping(body(), mixed), digits(), id="mixup"),
    pytest.param(lambda: Stepping(body(65, 64), denoised), digits(), id="diffusion"),
    pytest.param(lambda: Stepping(body(), contrasted), digits(), id="contrastive"),
    pytest.param(lambda: Stepping(body(64, 64), bootstrapped), digits(), id="own targets"),
    pytest.param(
        lambda: Stepping(nn.ModuleList([body(64, 8), body(4, 64)]), variational),
        digits(),
        id="strong prior",
    ),
    pytest.param(lambda: Stepping(body(), rewarded), digits(), id="bandit"),
    pytest.param(lambda: Stepping(body(8, 1), quantile), regression(), id="quantile"),
    pytest.param(lambda: Stepping(body(64, 9), ordinal), digits(), id="ordinal"),
    pytest.param(lambda: Program(body(64, 10, nn.Dropout(0.8))), digits(), id="dropout"),
    pytest.param(
        lambda: Program(nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), body(32))),
        digits(),
        id="batch norm",
    ),
    pytest.param(lambda: Program(body(), optimizer=slow), digits(), id="small steps"),
    pytest.param(lambda: Program(body(8, 1), F.mse_loss, searching), regression(), id="closures"),
    pytest.param(lambda: Scheduled(body()), digits(), id="warm-up"),
    pytest.param(lambda: ByHand(body()), digits(), id="warm-up in a hook"),
    pytest.param(lambda: Normalised(body()), digits(), id="transfer hook"),
    pytest.param(lambda: Prepared(body()), digits(), id="start hooks"),
    pytest.param(lambda: Named(body()), dictionaries(), id="dictionaries"),
    pytest.param(lambda: Program(body()), DataLoader(Stream(), batch_size=32), id="stream"),
    pytest.param(
        lambda: Stepping(nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20)), next_token),
        tokens(),
        id="bigrams",
    ),
    pytest.param(
        lambda: Program(body(), optimizer=lambda p: optim.AdamW(p, 1e-3, weight_decay=1.0)),
        digits(),
        id="weight decay",
    ),
    pytest.param(
        lambda: Program(nn.Sequential(nn.Linear(8, 1, bias=False)), F.l1_loss),
        regression(),
        id="linear, no bias",
    ),
]


@pytest.mark.parametrize(("module", "data"), PROGRAMS)
def test_quiet(module, data):
    assert not alarms(fit(module, data, epochs=2))


def test_a_tuned_net_is_quiet():
    assert not alarms(fit(pretrained, digits(), epochs=2))


def test_one_sample_a_batch_is_quiet():
    data = digits(n=64, batch=1)
    suite = fit(lambda: Program(body(), optimizer=lambda p: optim.Adam(p, 1e-4)), data, epochs=1)
    assert not alarms(suite)
    assert not math.isnan(suite.experiments[0].seconds)
