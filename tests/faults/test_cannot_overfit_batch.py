"""Models that cannot learn two samples by heart, and the same models that can."""

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, regression, sequences


def head(wrong, activation):
    """Return an activation where there must be none, or nothing."""
    return [activation] if wrong else []


class Squeezed(nn.Module):
    """Pools each channel to one value, and normalises over that one value."""

    def __init__(self, wrong):
        super().__init__()
        self.convolution = nn.Conv2d(1, 24, 3, padding=1)
        self.norm = nn.LayerNorm(1) if wrong else nn.LayerNorm(24)
        self.head = nn.Linear(24, 10)
        self.wrong = wrong

    def forward(self, x):
        pooled = self.convolution(x).relu().amax((2, 3))
        if self.wrong:
            return self.head(self.norm(pooled[..., None]).squeeze(-1))
        return self.head(self.norm(pooled))


class Clamped(Program):
    """Steps its optimizer by hand; predictions are clamped to where no target lies."""

    def __init__(self, wrong):
        net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
        super().__init__(net, F.mse_loss, optim.Adam)
        self.automatic_optimization = False
        self.wrong = wrong

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        loss = self.loss(out.clamp(4.0, 5.0) if self.wrong else out, y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Sum(nn.Module):
    """A recurrent net with one output for a binary label."""

    def __init__(self, wrong):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 1)
        self.wrong = wrong

    def forward(self, ids):
        out = self.head(self.rnn(self.embed(ids))[0].mean(1))
        return out.softmax(1) if self.wrong else out.sigmoid()


def costs():
    """A regression whose targets are negative, as log-likelihoods are."""
    x, y = regression().dataset.tensors
    return DataLoader(TensorDataset(x, -y.exp()), batch_size=32, shuffle=True)


def binary(prediction, label):
    """The loss for one output and classes 0 and 1."""
    return F.binary_cross_entropy(prediction.squeeze(1), label.float())


class Rows(nn.Module):
    """Attention over the rows of an image predicts the next row."""

    def __init__(self, wrong):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True, dropout=0.1)
        self.head = nn.Linear(8, 8)
        self.wrong = wrong

    def forward(self, x):
        mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
        out = self.head(self.block(x, src_mask=mask))
        return -out.relu() if self.wrong else out


def rows():
    """Digits as sequences of rows, and the rows that follow."""
    x, _ = digits(flat=False).dataset.tensors
    x = x.squeeze(1)
    return DataLoader(TensorDataset(x[:, :-1], x[:, 1:]), batch_size=32, shuffle=True)


PAIRS = [
    pytest.param(
        lambda bad: Program(
            nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), *head(bad, nn.ReLU())),
            F.mse_loss,
        ),
        costs(),
        id="relu on the output",
    ),
    pytest.param(lambda bad: Program(Squeezed(bad)), digits(flat=False), id="norm over one value"),
    pytest.param(Clamped, regression(), id="clamped, manual"),
    pytest.param(lambda bad: Program(Sum(bad), binary), sequences(), id="softmax of one"),
    pytest.param(
        lambda bad: Program(Rows(bad), F.mse_loss),
        rows(),
        id="negative, transformer",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("module", "data"), PAIRS)
def test_bug_is_found_and_fix_is_quiet(module, data):
    bug = fit(lambda: module(True), data, epochs=1)
    assert "cannot-overfit-batch" in names(bug), alarms(bug)
    fixed = fit(lambda: module(False), data, epochs=2)
    assert not alarms(fixed)
    (tried,) = [e for e in fixed.experiments if e.name == "one or two samples by heart"]
    assert tried.outcome == "passed", tried
