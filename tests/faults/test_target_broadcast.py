"""(N, 1) against (N,), and the programs without the bug."""

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
