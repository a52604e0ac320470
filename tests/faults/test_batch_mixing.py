"""Samples that are mixed on the way through a model, and the same models without it."""

import pytest
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Text(nn.Module):
    """A transformer over tokens; without batch_first it attends over the batch."""

    def __init__(self, batch_first):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(16, 2)

    def forward(self, ids):
        return self.head(self.block(self.embed(ids)).mean(1))


class Recurrent(nn.Module):
    """A GRU over tokens."""

    def __init__(self, batch_first):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.rnn = nn.GRU(16, 16, batch_first=batch_first)
        self.head = nn.Linear(16, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0].mean(1))


class Rows(nn.Module):
    """Reads an image row by row; time first, which a view does not do."""

    def __init__(self, view):
        super().__init__()
        self.rnn = nn.LSTM(8, 16)
        self.head = nn.Linear(16, 10)
        self.view = view

    def forward(self, x):
        rows = x.view(8, len(x), 8) if self.view else x.view(len(x), 8, 8).transpose(0, 1)
        return self.head(self.rnn(rows)[0][-1])


class Gated(nn.Module):
    """Weighs features by a softmax."""

    def __init__(self, axis):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(64, 64), nn.Softmax(axis))
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        return self.body(x * self.gate(x) * 64)


class Centred(nn.Module):
    """A convolution on images that are centred by hand."""

    def __init__(self, axes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )
        self.axes = axes

    def forward(self, x):
        return self.body(
            (x - x.mean(self.axes, keepdim=True)) / (x.std(self.axes, keepdim=True) + 0.1)
        )


class ByHand(Program):
    """Weights of the step's own, in manual optimization; the view is in the step."""

    def __init__(self, view):
        super().__init__(nn.Linear(8, 32), optimizer=optim.Adam)
        self.automatic_optimization = False
        self.head = nn.Linear(32, 1)
        self.view = view

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.net(x).tanh()
        h = h.view(2, len(x), 16) if self.view else h.view(len(x), 2, 16).transpose(0, 1)
        out = self.head(h.transpose(0, 1).flatten(1))
        loss = F.mse_loss(out, y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class InTheStep(Program):
    """Normalises the logits in the training step."""

    def __init__(self, axis):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
        self.axis = axis

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        return F.nll_loss(logits - logits.logsumexp(self.axis, keepdim=True), y)


class TimeFirst(Program):
    """Puts time first in the training step; a view does not do that."""

    def __init__(self, view):
        super().__init__(nn.LSTM(8, 32))
        self.head = nn.Linear(32, 10)
        self.view = view

    def training_step(self, batch, batch_idx):
        x, y = batch
        rows = x.view(8, len(x), 8) if self.view else x.view(len(x), 8, 8).transpose(0, 1)
        return F.cross_entropy(self.head(self.net(rows)[0][-1]), y)


class Words(Program):
    """Tokens for a transformer that expects time first, and gets them by a reshape."""

    def __init__(self, reshape):
        super().__init__(nn.Embedding(20, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)
        self.head = nn.Linear(16, 2)
        self.reshape = reshape

    def training_step(self, batch, batch_idx):
        ids, y = batch
        ids = ids.reshape(ids.shape[1], len(ids)) if self.reshape else ids.T
        return F.cross_entropy(self.head(self.block(self.net(ids)).mean(0)), y)


PAIRS = [
    pytest.param(
        lambda bad: Program(Text(not bad)), sequences(), "net.block.self_attn", id="attention"
    ),
    pytest.param(lambda bad: Program(Recurrent(not bad)), sequences(), "net.rnn", id="GRU"),
    pytest.param(lambda bad: Program(Rows(bad)), digits(), "net", id="view for transpose"),
    pytest.param(lambda bad: Program(Gated(0 if bad else 1)), digits(), "net.gate.1", id="softmax"),
    pytest.param(
        lambda bad: Program(Centred(0 if bad else (1, 2, 3))), digits(flat=False), "net", id="mean"
    ),
    pytest.param(lambda bad: InTheStep(0 if bad else 1), digits(), "training_step", id="step"),
    pytest.param(TimeFirst, digits(), "training_step", id="view of the data"),
    pytest.param(Words, sequences(), "training_step", id="reshape of tokens"),
]


@pytest.mark.parametrize(("module", "data", "place"), PAIRS)
def test_pair(module, data, place):
    found = fit(lambda: module(True), data, epochs=1)
    assert "batch-mixing" in names(found)
    assert places(found, "batch-mixing") == {place}
    assert alarms(fit(lambda: module(False), data, epochs=1)) == []


def test_view_in_the_step():
    found = fit(lambda: ByHand(True), regression(), epochs=1)
    assert places(found, "batch-mixing") == {"training_step"}
    assert alarms(fit(lambda: ByHand(False), regression(), epochs=1)) == []
