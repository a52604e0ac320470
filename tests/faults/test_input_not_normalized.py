"""Raw scales at the first layer, and the same programs with the data normalised."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression

ADAM = partial(torch.optim.Adam, lr=3e-3)
HEAD = partial(nn.Linear, 64, 10)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8 * 36, 10)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).flatten(1))


class Rows(Program):
    """An LSTM over the rows of an image."""

    def __init__(self):
        super().__init__(nn.LSTM(8, 32, batch_first=True), optimizer=ADAM)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.net(x.view(-1, 8, 8))[0][:, -1])


class Rescaled(nn.Module):
    """Divides by 255 once more what a transform of the data has already divided."""

    def forward(self, x):
        return (x / 255.0).flatten(1)


class Patches(Program):
    """A transformer over the rows of an image; its norms come behind the first attention."""

    def __init__(self):
        super().__init__(nn.Linear(8, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(self.net(x.view(-1, 8, 8))).mean(1))


class Handwritten(Program):
    """Weights without modules."""

    def __init__(self):
        super().__init__(nn.Identity(), F.mse_loss, ADAM)
        self.first = nn.Parameter(torch.randn(8, 32) / 8**0.5)
        self.second = nn.Parameter(torch.randn(32, 1) / 32**0.5)

    def forward(self, x):
        return torch.tanh(x @ self.first) @ self.second


def mlp(inputs=8):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 1))


def table(change):
    """The regression task, its features changed."""
    x, y = regression().dataset.tensors
    return DataLoader(TensorDataset(change(x), y), batch_size=32, shuffle=True)


def raw_columns(x):
    """Age, income, and so on, as they are in the file."""
    spread = torch.tensor([1.0, 12000.0, 1.0, 0.5, 2.0, 1.0, 1.0, 0.3])
    return x * spread + torch.tensor([0.0, 45000.0, 0.0, 1.0, 0.0, 0.0, 3.0, 0.0])


FORECAST = partial(Program, loss=F.mse_loss, optimizer=ADAM)


@pytest.mark.parametrize(
    ("module", "bug", "fix", "place", "said"),
    [
        pytest.param(
            lambda: Program(Cnn()),
            lambda: digits(flat=False, scale=255.0),
            lambda: digits(flat=False),
            "net.conv",
            "channel 0",
            id="pixels of 0 to 255, convolution",
        ),
        pytest.param(
            Rows, lambda: digits(scale=255.0), digits, "net", "root mean square", id="LSTM"
        ),
        pytest.param(
            Patches,
            lambda: digits(scale=255.0),
            digits,
            "net",
            "root mean square",
            id="transformer",
        ),
        pytest.param(
            lambda: Program(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), HEAD())),
            lambda: digits(flat=False, scale=255.0),
            lambda: digits(flat=False),
            "net.1",
            "root mean square",
            id="a module without weights first",
        ),
        pytest.param(
            lambda: Program(nn.Sequential(Rescaled(), nn.Linear(64, 64), nn.ReLU(), HEAD())),
            lambda: digits(flat=False),
            lambda: digits(flat=False, scale=255.0),
            "net.1",
            "only",
            id="divided twice, by a module",
        ),
        pytest.param(
            lambda: FORECAST(mlp()),
            lambda: table(raw_columns),
            lambda: table(lambda x: x),
            "net.0",
            "column 1",
            id="raw columns",
        ),
        pytest.param(
            lambda: FORECAST(nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64), mlp(64))),
            lambda: table(raw_columns),
            lambda: table(lambda x: x),
            "net.0",
            "drowns",
            id="raw columns before a norm",
        ),
        pytest.param(
            Handwritten,
            lambda: table(lambda x: x + 273.0),
            lambda: table(lambda x: x),
            "training_step",
            "mean 27",
            id="offset, weights without modules",
        ),
        pytest.param(
            lambda: FORECAST(mlp()),
            lambda: table(lambda x: 0.3 * x + 8.0),
            lambda: table(lambda x: x),
            "net.0",
            "far from zero",
            id="values around 8",
        ),
        pytest.param(
            lambda: FORECAST(mlp()),
            lambda: table(lambda x: 1e-4 * x),
            lambda: table(lambda x: x),
            "net.0",
            "only",
            id="tiny values",
        ),
    ],
)
def test_scales(module, bug, fix, place, said):
    found, fixed = fit(module, bug()), fit(module, fix())
    assert "input-not-normalized" in names(found)
    assert places(found, "input-not-normalized") == {place}
    assert said in next(f.message for f in found.findings if f.name == "input-not-normalized")
    assert alarms(fixed) == []


def test_it_is_the_cause_of_a_bad_first_loss():
    suite = fit(lambda: Program(Cnn()), digits(flat=False, scale=255.0))
    assert {f.name: f.caused_by for f in suite.findings}["initial-loss"] == "input-not-normalized"
