"""Learning rates far too high, and the same programs with a usual one."""

from functools import partial

import pytest
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def mlp(optimizer):
    net = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    return Program(net, optimizer=optimizer)


def cnn(optimizer):
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    return Program(net, optimizer=optimizer)


def regressor(optimizer):
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    return Program(net, F.mse_loss, optimizer)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0].mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


def lstm(optimizer):
    return Program(Recurrent(), optimizer=optimizer)


def transformer(optimizer):
    return Program(Encoder(), optimizer=optimizer)


SGD, ADAM = partial(optim.SGD, momentum=0.9), optim.Adam


@pytest.mark.parametrize(
    ("program", "data", "optimizer", "high", "usual"),
    [
        pytest.param(mlp, digits(), SGD, 10.0, 0.05, id="mlp, sgd"),
        pytest.param(mlp, digits(), ADAM, 1.0, 1e-3, id="mlp, adam"),
        pytest.param(cnn, digits(flat=False), ADAM, 0.3, 1e-3, id="cnn, adam"),
        pytest.param(cnn, digits(flat=False), SGD, 5.0, 0.02, id="cnn, sgd"),
        pytest.param(regressor, regression(), SGD, 1.0, 0.01, id="regression, sgd"),
        pytest.param(lstm, sequences(), ADAM, 1.0, 3e-3, id="lstm, adam"),
        pytest.param(
            transformer,
            sequences(),
            ADAM,
            0.3,
            1e-3,
            id="transformer, adam",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pair(program, data, optimizer, high, usual):
    broken = fit(lambda: program(partial(optimizer, lr=high)), data, epochs=4)
    assert "update-too-large" in names(broken)
    assert places(broken, "update-too-large") == {"Adam" if optimizer is ADAM else "SGD"}
    fixed = fit(lambda: program(partial(optimizer, lr=usual)), data, epochs=4)
    assert alarms(fixed) == []


class Groups(Program):
    """Two groups of parameters; one of the rates has slipped by a few digits."""

    def __init__(self, rate):
        super().__init__(cnn(ADAM).net)
        self.rate = rate

    def configure_optimizers(self):
        body, head = self.net[:6], self.net[6]
        return optim.AdamW(
            [{"params": body.parameters(), "lr": self.rate}, {"params": head.parameters()}], lr=1e-3
        )


def test_group():
    broken = fit(lambda: Groups(1.0), digits(flat=False), epochs=4)
    assert places(broken, "update-too-large") == {"AdamW group 0"}
    assert alarms(fit(lambda: Groups(1e-4), digits(flat=False), epochs=4)) == []
