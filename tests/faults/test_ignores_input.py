"""Inputs that a model is given and does not use, and the same models that do."""

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def pairs(*, n=512):
    """Two tables; the target needs both."""
    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(2, n, 8, generator=generator)
    y = (x.sum(1, keepdim=True) + c[:, :4].sum(1, keepdim=True)) / 3
    return DataLoader(TensorDataset(x, c, y), batch_size=32, shuffle=True)


class TwoTowers(Program):
    """The second tower is given the first input."""

    def __init__(self, wrong):
        super().__init__(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)))
        self.left, self.right = nn.Linear(8, 16), nn.Linear(8, 16)
        self.wrong = wrong

    def forward(self, x, context):
        right = self.right(x if self.wrong else context)
        return self.net(torch.cat([self.left(x), right], 1).relu())

    def training_step(self, batch, batch_idx):
        x, c, y = batch
        return F.mse_loss(self(x, c), y)


class Conditional(Program):
    """A conditional autoencoder by hand, whose label is multiplied away."""

    def __init__(self, wrong):
        super().__init__(nn.Linear(64, 8), optimizer=optim.Adam)
        self.automatic_optimization = False
        self.classes = nn.Embedding(10, 8)
        self.decoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64))
        self.wrong = wrong

    def forward(self, x, label):
        code = self.net(x)
        condition = self.classes(torch.zeros_like(label) if self.wrong else label)
        return self.decoder(torch.cat([code, condition], 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x, y), x)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Diffusion(Program):
    """Predicts noise; the time is drawn in the step."""

    def __init__(self, wrong):
        super().__init__(nn.Sequential(nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 64)))
        self.time = nn.Embedding(10, 8)
        self.wrong = wrong

    def forward(self, x, t):
        t = torch.zeros_like(t) if self.wrong else t
        return self.net(torch.cat([x, self.time(t)], 1))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, noise = torch.randint(0, 10, (len(x),)), torch.randn_like(x)
        share = (1 - t / 10)[:, None]
        return F.mse_loss(self(share.sqrt() * x + (1 - share).sqrt() * noise, t), noise)


class Sliced(nn.Module):
    """Reads some of the columns."""

    def __init__(self, columns):
        super().__init__()
        self.columns = columns
        self.body = nn.Sequential(nn.Linear(columns, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.body(x[:, : self.columns])


class Reader(nn.Module):
    """A recurrent net that is read at its first step."""

    def __init__(self, step):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.step = step

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0][:, self.step])


class Token(nn.Module):
    """A class token in front of the rows of an image; attention is causal."""

    def __init__(self, first):
        super().__init__()
        self.rows = nn.Linear(8, 16)
        self.position = nn.Parameter(0.1 * torch.randn(9, 16))
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 10)
        self.first = first

    def forward(self, x):
        rows, token = self.rows(x.squeeze(1)), self.token.expand(len(x), 1, -1)
        h = torch.cat([token, rows] if self.first else [rows, token], 1) + self.position
        mask = torch.ones(9, 9, dtype=torch.bool).triu(1)
        h = self.block(h, src_mask=mask)
        return self.head(h[:, 0] if self.first else h[:, -1])


PAIRS = [
    pytest.param(TwoTowers, pairs(), "context of the model", id="wrong variable"),
    pytest.param(Diffusion, digits(), "t of the model", id="time"),
    pytest.param(Conditional, digits(), "label of the model", id="label"),
    pytest.param(
        lambda bad: Program(Sliced(5 if bad else 8), F.mse_loss),
        regression(),
        "batch[0]",
        id="columns",
    ),
    pytest.param(
        lambda bad: Program(Reader(0 if bad else -1)), sequences(), "batch[0]", id="first step"
    ),
    pytest.param(
        lambda bad: Program(Token(bad)),
        digits(flat=False),
        "x of the model",
        id="token",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("module", "data", "place"), PAIRS)
def test_pair(module, data, place):
    found = fit(lambda: module(True), data, epochs=1)
    assert "ignores-input" in names(found)
    assert places(found, "ignores-input") == {place}
    assert alarms(fit(lambda: module(False), data, epochs=1)) == []
