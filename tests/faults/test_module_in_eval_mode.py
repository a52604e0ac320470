"""Models that are trained in eval mode, and the same programs in train mode."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def dense():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))


def handed_over(bug):
    """The whole module was used for prediction before."""
    module = Program(dense())
    return module.eval() if bug else module


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        return self.head(self.bn2(self.conv2(x)).relu().mean((2, 3)))


class EpochEnd(Program):
    """Samples at the end of an epoch, and forgets to go back."""

    def __init__(self, bug):
        super().__init__(Cnn())
        self.bug = bug

    def on_train_epoch_end(self):
        self.eval()
        with torch.no_grad():
            self(torch.zeros(1, 1, 8, 8))
        if not self.bug:
            self.train()


class Pretrained(nn.Module):
    """A transformer as ``from_pretrained`` gives it, in eval mode, below a head in train mode."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        if bug:
            self.body.eval()

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


class Logged(nn.Module):
    """A body with a ``train()`` of its own, which does as it is told and notes it."""

    def __init__(self, bug):
        super().__init__()
        self.net, self.told = dense(), []
        if bug:
            self.eval()

    def train(self, mode=True):
        self.told = [*self.told, mode]
        return super().train(mode)

    def forward(self, x):
        return self.net(x)


class Recurrent(nn.Module):
    """Dropout between the layers of an LSTM, and a functional one."""

    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, 2, dropout=0.2)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        _, (h, _) = self.rnn(self.table(ids.T))
        return self.head(F.dropout(h[-1], 0.2, self.training))


class Evaluates(pl.LightningModule):
    """Manual optimization; measures an accuracy inside the training step."""

    def __init__(self, bug):
        super().__init__()
        self.automatic_optimization = False
        self.net, self.bug = Recurrent(), bug

    def training_step(self, batch, batch_idx):
        ids, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(ids), y))
        optimizer.step()
        self.net.eval()
        with torch.no_grad():
            self.net(ids)
        if not self.bug:
            self.net.train()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(handed_over, digits, "model", id="mlp, handed over"),
        pytest.param(EpochEnd, lambda: digits(flat=False, n=256), "model", id="cnn, epoch end"),
        pytest.param(
            lambda bug: Program(Pretrained(bug)),
            sequences,
            "net.body",
            id="transformer, pretrained",
        ),
        pytest.param(lambda bug: Program(Logged(bug)), digits, "net", id="mlp, train() of its own"),
        pytest.param(Evaluates, sequences, "net", id="lstm, in a manual training step"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data())
    assert "module-in-eval-mode" in names(broken)
    assert places(broken, "module-in-eval-mode") == {where}
    assert alarms(fit(lambda: program(False), data())) == []


def test_own_train_is_asked_on_a_shell():
    module = Program(Logged(True))
    fit(lambda: module, digits(n=128), epochs=1)
    assert module.net.told == [False]  # Lightning restores modes one by one
