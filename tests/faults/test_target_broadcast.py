"""(N, 1) against (N,), and the programs without the bug."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


def mlp(inputs=8, outputs=1):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


class Regression(Program):
    """Targets of shape (N,), or as they come, (N, 1)."""

    def __init__(self, flat, loss=F.mse_loss):
        super().__init__(mlp(), loss)
        self.flat = flat

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y.squeeze(1) if self.flat else y)


class Depth(Program):
    """A map for each image: (B, 1, H, W) against (B, H, W)."""

    def __init__(self, flat):
        super().__init__(
            nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
        )
        self.flat = flat
        self.criterion = nn.SmoothL1Loss()

    def training_step(self, batch, batch_idx):
        x, _ = batch
        target = x.flip(-1) - x.mean()
        return self.criterion(self.net(x), target.squeeze(1) if self.flat else target)


class Rnn(Program):
    """The last state of an LSTM, and a variance."""

    def __init__(self, flat):
        super().__init__(nn.LSTM(1, 16, batch_first=True))
        self.head = nn.Linear(16, 2)
        self.flat = flat

    def training_step(self, batch, batch_idx):
        x, y = batch
        mean, variance = self.head(self.net(x.unsqueeze(-1))[0][:, -1]).chunk(2, dim=1)
        y = y.squeeze(1) if self.flat else y
        return F.gaussian_nll_loss(mean, y, F.softplus(variance) + 0.1)


class Critic(Program):
    """A value function; rewards (N,) plus next values (N, 1) give targets (N, N)."""

    def __init__(self, flat):
        super().__init__(mlp())
        self.flat = flat

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            following = self.net(x.roll(1, 0))
        reward = y.squeeze(1) if self.flat else y
        return F.mse_loss(self.net(x), reward + 0.5 * following)


class OwnLoss(Program):
    """A loss in the user's own words, of a sequence model that gives (N, 1)."""

    def __init__(self, flat, loss):
        super().__init__(nn.GRU(1, 32, batch_first=True), loss)
        self.head = nn.Linear(32, 1)
        self.flat = flat

    def training_step(self, batch, batch_idx):
        x, y = batch
        prediction = self.head(self.net(x.unsqueeze(-1))[1][0])
        return self.loss(prediction, y.squeeze(1) if self.flat else y)


def pinball(prediction, y):
    error = y - prediction
    return torch.max(0.9 * error, -0.1 * error).mean()


def expectile(prediction, y):
    error = y - prediction
    return (torch.where(error > 0, 0.8, 0.2) * error**2).mean()


def pseudo_huber(prediction, y):
    return (torch.sqrt(1.0 + ((prediction - y) / 0.5) ** 2) - 1.0).mean(0).mean()


def log_cosh(prediction, y):
    error = prediction - y
    return (error + F.softplus(-2.0 * error) - 0.7).mean()


def percentage(prediction, y):
    return 100.0 * torch.mean(torch.abs((y - prediction) / (y.abs() + 1.0)))


def weighted(prediction, y):
    return (torch.ones(len(y)) * ((prediction - y) * 2.0).square()).sum() / len(y)


def counts(prediction, y):
    """A Poisson regression of counts."""
    return (prediction.exp() - y.clamp(0.0, 2.0).round() * prediction).mean()


def yes_or_no(prediction, y):
    """A yes or no of each sample."""
    labels = (y > 0.0).float()
    errors = labels * F.logsigmoid(prediction) + (1.0 - labels) * F.logsigmoid(-prediction)
    return -errors.sum() / len(y)


class Proximal(Program):
    """A policy with a critic, trained on two passes over its choices, as PPO does."""

    def __init__(self, flat):
        super().__init__(mlp(outputs=3), optimizer=functools.partial(torch.optim.Adam, lr=3e-3))
        self.critic = mlp()
        self.flat = flat

    def training_step(self, batch, batch_idx):
        x, y = batch
        policy = torch.distributions.Categorical(logits=self.net(x))
        action = policy.sample()
        reward = -(action[:, None] - 1.0 - y).square()
        value = self.critic(x)
        advantage = reward - value.detach()
        advantage = advantage if self.flat else advantage.squeeze(1)
        before = policy.log_prob(action).detach()
        ratio = (policy.log_prob(action) - before).exp()
        clipped = ratio.clamp(0.8, 1.2)
        gain = torch.min(ratio * advantage, clipped * advantage)
        return -gain.mean() + F.mse_loss(value, reward) - 0.01 * policy.entropy().mean()


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        pytest.param(lambda: OwnLoss(True, counts), lambda: OwnLoss(False, counts), id="counts"),
        pytest.param(
            lambda: OwnLoss(True, yes_or_no), lambda: OwnLoss(False, yes_or_no), id="yes or no"
        ),
        pytest.param(lambda: Proximal(True), lambda: Proximal(False), id="advantages"),
    ],
)
def test_products(bug, fix):
    found = fit(bug, regression(), epochs=3)
    assert "target-broadcast" in names(found)
    assert places(found, "target-broadcast") == {"training_step"}
    assert alarms(fit(fix, regression(), epochs=3)) == []


def test_weights_of_another_shape():
    def weighted_by(weight):
        def loss(prediction, y):
            errors = F.huber_loss(prediction.squeeze(1), y.squeeze(1), reduction="none")
            return (errors / (1.0 + weight(y).square())).mean()

        return lambda: Program(mlp(), loss)

    found = fit(weighted_by(lambda y: y), regression(), epochs=3)
    assert "target-broadcast" in names(found)
    assert alarms(fit(weighted_by(lambda y: y.squeeze(1)), regression(), epochs=3)) == []


@pytest.mark.parametrize("loss", [pinball, expectile, pseudo_huber, log_cosh, percentage, weighted])
def test_own_loss(loss):
    found = fit(lambda: OwnLoss(True, loss), regression(), epochs=3)
    assert "target-broadcast" in names(found)
    assert places(found, "target-broadcast") == {"training_step"}
    assert alarms(fit(lambda: OwnLoss(False, loss), regression(), epochs=3)) == []


@pytest.mark.parametrize(
    ("bug", "fix", "data"),
    [
        pytest.param(
            lambda: Regression(True), lambda: Regression(False), regression(), id="mse_loss"
        ),
        pytest.param(
            lambda: Regression(True, nn.HuberLoss(reduction="sum")),
            lambda: Regression(False, nn.HuberLoss(reduction="sum")),
            regression(),
            id="HuberLoss, summed",
        ),
        pytest.param(
            lambda: Regression(True, lambda p, y: F.l1_loss(y, p)),
            lambda: Regression(False, lambda p, y: F.l1_loss(y, p)),
            regression(),
            id="l1_loss, arguments swapped",
        ),
        pytest.param(lambda: Depth(True), lambda: Depth(False), digits(flat=False), id="depth map"),
        pytest.param(lambda: Rnn(True), lambda: Rnn(False), regression(), id="lstm"),
        pytest.param(lambda: Critic(True), lambda: Critic(False), regression(), id="critic"),
    ],
)
def test_pair(bug, fix, data):
    found = fit(bug, data)
    assert "target-broadcast" in names(found)
    assert places(found, "target-broadcast") <= {"training_step", "criterion", "loss"}
    assert alarms(fit(fix, data)) == []
