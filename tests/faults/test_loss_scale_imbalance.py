"""Loss terms that drown others, and the programs in which all are heard."""

import pytest
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places


class TwoTasks(Program):
    """The class of a digit, and how much ink it took, in units of choice."""

    def __init__(self, unit=1.0):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()))
        self.classes, self.ink = nn.Linear(32, 10), nn.Linear(32, 1)
        self.unit = unit

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x)
        ink = self.unit * (x.sum(1, keepdim=True) - 19.0) / 3.0
        loss_class = F.cross_entropy(self.classes(hidden), y)
        loss_ink = F.mse_loss(self.ink(hidden), ink)
        return loss_class + loss_ink


class Conv(Program):
    """A convolutional trunk with two heads; the reconstruction is summed or averaged."""

    def __init__(self, reduction="mean"):
        super().__init__(
            nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32))
        )
        self.classes = nn.Linear(32, 10)
        self.pixels = nn.Linear(32, 64)
        self.reduction = reduction

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x)
        image = F.mse_loss(self.pixels(hidden), x.flatten(1), reduction=self.reduction)
        return sum([F.cross_entropy(self.classes(hidden), y), 20.0 * image])


class Recurrent(Program):
    """An LSTM over the rows with an auxiliary task whose weight is far too large."""

    def __init__(self, weight):
        super().__init__(nn.LSTM(8, 32, batch_first=True))
        self.classes, self.mean = nn.Linear(32, 10), nn.Linear(32, 1)
        self.weight = weight

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x.view(-1, 8, 8))[0][:, -1]
        error = self.mean(hidden).squeeze(1) - x.std(1)
        loss = self.weight * error.abs().mean()
        return loss + F.nll_loss(self.classes(hidden).log_softmax(1), y)


@pytest.mark.parametrize(
    ("bug", "fix", "data"),
    [
        pytest.param(lambda: TwoTasks(300.0), TwoTasks, digits, id="two tasks, raw targets"),
        pytest.param(lambda: Conv("sum"), Conv, lambda: digits(flat=False), id="sum beside a mean"),
        pytest.param(
            lambda: Recurrent(1e4), lambda: Recurrent(1.0), digits, id="a weight of 10000"
        ),
    ],
)
def test_loss_scale_imbalance(bug, fix, data):
    found, fixed = fit(bug, data()), fit(fix, data())
    assert "loss-scale-imbalance" in names(found)
    assert any("loss" in place for place in places(found, "loss-scale-imbalance"))
    assert alarms(fixed) == []
