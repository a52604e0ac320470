"""Loss terms that drown others, and the programs in which all are heard."""

from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

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


class Series(Program):
    """A recurrent variational autoencoder; both of its terms are sums, or one a mean."""

    def __init__(self, reduction="mean"):
        super().__init__(nn.GRU(1, 32, batch_first=True), optimizer=partial(optim.Adam, lr=3e-3))
        self.code, self.decoder = nn.Linear(32, 8), nn.Sequential(nn.Linear(4, 64), nn.Tanh())
        self.out = nn.Linear(64, 24)
        self.reduction = reduction

    def training_step(self, batch, batch_idx):
        (x,) = batch
        mean, log = self.code(self.net(x[:, :, None])[0][:, -1]).chunk(2, 1)
        made = self.out(self.decoder(mean + torch.randn_like(mean) * (log / 2.0).exp()))
        divergence = -0.5 * (1.0 + log - mean**2 - log.exp()).sum()
        return F.mse_loss(made, x, reduction=self.reduction) + divergence


def days():
    """Each day has the same course, and a wave of its own upon it."""
    generator = torch.Generator().manual_seed(0)
    hours, phase = torch.arange(24.0) / 24.0, torch.rand(768, 1, generator=generator)
    course = 2.0 * torch.sin(6.28 * hours) + torch.sin(6.28 * (hours + phase))
    return DataLoader(TensorDataset(course), batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("bug", "fix", "data", "epochs"),
    [
        pytest.param(lambda: TwoTasks(300.0), TwoTasks, digits, 2, id="two tasks, raw targets"),
        pytest.param(
            lambda: Conv("sum"), Conv, lambda: digits(flat=False), 2, id="sum beside a mean"
        ),
        pytest.param(
            lambda: Recurrent(1e4), lambda: Recurrent(1.0), digits, 2, id="a weight of 10000"
        ),
        pytest.param(Series, lambda: Series("sum"), days, 30, id="the mean of all series"),
    ],
)
def test_loss_scale_imbalance(bug, fix, data, epochs):
    found, fixed = fit(bug, data(), epochs=epochs), fit(fix, data(), epochs=epochs)
    assert "loss-scale-imbalance" in names(found)
    assert any("loss" in place for place in places(found, "loss-scale-imbalance"))
    assert alarms(fixed) == []
