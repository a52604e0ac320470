"""Sums whose steps are too large, and the programs without the bug."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Mlp(Program):
    def __init__(self, **loss):
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        criterion = nn.CrossEntropyLoss(**loss)
        super().__init__(net, criterion, partial(torch.optim.SGD, lr=0.5, momentum=0.9))


class Cnn(Program):
    """An autoencoder: the sum runs over pixels too."""

    def __init__(self, **loss):
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
        )
        super().__init__(net, optimizer=partial(torch.optim.SGD, lr=0.1))
        self.options = loss

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self.net(x), x, **self.options)


class Regression(Program):
    def __init__(self, **loss):
        net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
        super().__init__(
            net, partial(F.mse_loss, **loss), partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        )


class Sentiment(Program):
    def __init__(self, **loss):
        super().__init__(nn.Embedding(20, 16), optimizer=partial(torch.optim.SGD, lr=0.5))
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)
        self.options = loss

    def training_step(self, batch, batch_idx):
        ids, y = batch
        return F.cross_entropy(self.head(self.lstm(self.net(ids))[0][:, -1]), y, **self.options)


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(Mlp, digits(), id="mlp"),
        pytest.param(Cnn, digits(flat=False), id="cnn"),
        pytest.param(Regression, regression(), id="regression"),
        pytest.param(Sentiment, sequences(), id="lstm"),
    ],
)
def test_pair(program, data):
    found = fit(lambda: program(reduction="sum"), data)
    assert "loss-reduction" in names(found)
    assert places(found, "loss-reduction") <= {"training_step", "loss"}
    assert alarms(fit(program, data)) == []
