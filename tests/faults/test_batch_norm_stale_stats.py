"""Batch norms whose running statistics are not those of the data, and the same with sound ones."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))


class Cnn(nn.Module):
    def __init__(self, momentum=0.1):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8, momentum=momentum)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16, momentum=momentum)
        self.head = nn.Linear(16, 10)

    def features(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        return self.bn2(self.conv2(x)).relu().mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def dense(momentum):
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=momentum), nn.ReLU(), nn.Linear(64, 10)
    )


class ByHand(Program):
    """Statistics of its own in buffers, a function, and a step that optimizes by itself."""

    def __init__(self, momentum):
        super().__init__(nn.Linear(8, 32), F.mse_loss)
        self.automatic_optimization = False
        self.momentum, self.head = momentum, nn.Linear(32, 1)
        self.register_buffer("mean", torch.zeros(32))
        self.register_buffer("variance", torch.ones(32))

    def forward(self, x):
        h = F.batch_norm(
            self.net(x), self.mean, self.variance, training=self.training, momentum=self.momentum
        )
        return self.head(h.tanh())

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()


@pytest.mark.parametrize(
    ("program", "bad", "data", "where"),
    [
        pytest.param(
            lambda m: Program(Cnn(m)),
            0.99,
            lambda: digits(flat=False, n=640),
            {"net.bn1", "net.bn2"},
            id="cnn, 0.99",
        ),
        pytest.param(lambda m: Validated(dense(m)), 1.0, digits, {"net.1"}, id="mlp, 1"),
        pytest.param(lambda m: Program(dense(m)), 0.0, digits, {"net.1"}, id="mlp, 0"),
        pytest.param(
            lambda m: Validated(Cnn(m)),
            0.001,
            lambda: digits(flat=False, n=640),
            {"net.bn1", "net.bn2"},
            id="cnn, 0.001",
        ),
        pytest.param(ByHand, 0.95, regression, {"model"}, id="functions, 0.95"),
    ],
)
def test_momentum(program, bad, data, where):
    settings = {"epochs": 1, "validation": None if program is ByHand else data()}
    broken = fit(lambda: program(bad), data(), **settings)
    assert "batch-norm-stale-stats" in names(broken)
    assert places(broken, "batch-norm-stale-stats") == where
    fixed = fit(lambda: program(0.1), data(), **settings)
    assert [a for a in alarms(fixed) if "train-val-overlap" not in a] == []


def pretrained():
    """Return a network that was trained on digits with ink and paper exchanged."""
    torch.manual_seed(0)
    net = Cnn()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for x, y in digits(flat=False, n=640):
        optimizer.zero_grad()
        F.cross_entropy(net(1.0 - x), y).backward()
        optimizer.step()
    return net


class Backbone(Program):
    """A new head on features that nobody trains."""

    def __init__(self, bug, no_grad=False):
        super().__init__(pretrained().requires_grad_(False))
        self.head = nn.Linear(16, 10)
        self.bug, self.no_grad = bug, no_grad
        self.train()

    def train(self, mode=True):
        super().train(mode)
        if not self.bug:
            self.net.eval()
        return self

    def forward(self, x):
        with torch.set_grad_enabled(not self.no_grad and torch.is_grad_enabled()):
            features = self.net.features(x)
        return self.head(features)

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=1e-2)


class Halfway(Program):
    """All is tuned except for the batch norms, of which the weights alone are frozen."""

    def __init__(self, bug):
        super().__init__(pretrained())
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
                if not bug:
                    module.eval()


class Perceptual(Program):
    """Compares features of what a decoder makes with those of the image, in a frozen network."""

    def __init__(self, bug):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)))
        self.judge = pretrained().requires_grad_(False)
        self.bug = bug

    def training_step(self, batch, batch_idx):
        x, _ = batch
        self.judge.train(self.bug)
        made = self.net(x).view(-1, 1, 8, 8)
        wanted = self.judge.features(x.view(-1, 1, 8, 8))
        return F.mse_loss(self.judge.features(made), wanted) + F.mse_loss(made.flatten(1), x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=1e-3)


@pytest.mark.parametrize(
    ("program", "flat"),
    [
        pytest.param(Backbone, False, id="new head"),
        pytest.param(lambda bug: Backbone(bug, no_grad=True), False, id="no_grad"),
        pytest.param(Halfway, False, id="batch norms alone"),
        pytest.param(Perceptual, True, id="perceptual loss"),
    ],
)
def test_frozen(program, flat):
    broken = fit(lambda: program(True), digits(flat=flat, n=512), epochs=1)
    assert "batch-norm-stale-stats" in names(broken)
    assert places(broken, "batch-norm-stale-stats") >= {
        f"{'judge' if program is Perceptual else 'net'}.bn1"
    }
    fixed = fit(lambda: program(False), digits(flat=flat, n=512), epochs=1)
    assert alarms(fixed) == []


class Averaged(Program):
    """Validates a running average of the weights, which has the buffers too or has not."""

    def __init__(self, bug):
        super().__init__(Cnn())
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.bug = bug

    @torch.no_grad()
    def on_train_batch_end(self, *_):
        for ours, theirs in zip(self.average.parameters(), self.net.parameters(), strict=True):
            ours.lerp_(theirs, 0.1)
        if not self.bug:
            for ours, theirs in zip(self.average.buffers(), self.net.buffers(), strict=True):
                ours.copy_(theirs)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.average(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=1e-3)


def test_average_without_buffers():
    def run(bug):
        data = digits(flat=False, n=640)
        return fit(lambda: Averaged(bug), data, epochs=1, validation=digits(flat=False, n=64))

    broken = run(True)
    assert "batch-norm-stale-stats" in names(broken)
    assert "average.bn1" in places(broken, "batch-norm-stale-stats")
    assert [a for a in alarms(run(False)) if "train-val-overlap" not in a] == []


class Warm(Validated):
    """Finds out the size of the output with a blank image, in train mode, at each step."""

    def __init__(self, bug):
        super().__init__(Cnn(), optimizer=functools.partial(torch.optim.Adam, lr=1e-2))
        self.bug = bug

    def training_step(self, batch, batch_idx):
        if self.bug:
            for _ in range(4):
                self.net(torch.zeros_like(batch[0]))
        return super().training_step(batch, batch_idx)


class Reset(Validated):
    """Starts the statistics anew with each batch, not with each run."""

    def __init__(self, bug):
        layers = [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh()]
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
        super().__init__(nn.Sequential(*layers, nn.Linear(64, 10)))
        self.bug = bug

    def on_train_batch_start(self, *_):
        for module in self.net.children():
            if self.bug and isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()

    def forward(self, x):
        return self.net(4.0 * x + 2.0)


@pytest.mark.parametrize(
    ("program", "flat", "where"),
    [
        pytest.param(Warm, False, {"net.bn1", "net.bn2"}, id="cnn, blank images"),
        pytest.param(Reset, True, {"net.1", "net.4"}, id="mlp, reset"),
    ],
)
def test_loss_by_running_statistics(program, flat, where):
    broken = fit(lambda: program(True), digits(flat=flat), epochs=2)
    assert "batch-norm-stale-stats" in names(broken)
    assert places(broken, "batch-norm-stale-stats") <= where
    assert alarms(fit(lambda: program(False), digits(flat=flat), epochs=2)) == []
