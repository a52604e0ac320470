"""Weight layers in a row without an activation, and the same networks with one."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def dense(bug):
    bend = nn.Identity() if bug else nn.ReLU()
    return nn.Sequential(nn.Linear(64, 64), bend, nn.Dropout(0.1), nn.Linear(64, 10))


class Cnn(nn.Module):
    """The activation is registered, and not called between two of the layers."""

    def __init__(self, bug):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU()
        self.head = nn.Linear(16 * 16, 10)
        self.bug = bug

    def forward(self, x):
        x = self.norm(self.conv1(x))
        x = self.conv2(x if self.bug else self.act(x))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Flattened(nn.Module):
    """Nothing between the last convolution and the linear layer."""

    def __init__(self, bug):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, stride=2), nn.Conv2d(8, 16, 3)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 10)
        self.bug = bug

    def forward(self, x):
        x = self.conv2(self.conv1(x).relu())
        x = (x if self.bug else x.relu()).flatten(1)
        return self.fc2(self.fc1(x).relu())


class Handwritten(pl.LightningModule):
    """Matrices of its own, and manual optimization."""

    def __init__(self, bug):
        super().__init__()
        self.automatic_optimization = False
        self.w1, self.b1 = nn.Parameter(torch.randn(64, 32) / 8), nn.Parameter(torch.zeros(32))
        self.w2, self.b2 = nn.Parameter(torch.randn(32, 10) / 6), nn.Parameter(torch.zeros(10))
        self.bug = bug

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = x @ self.w1 + self.b1
        out = (h if self.bug else torch.tanh(h)) @ self.w2 + self.b2
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(out, y))
        optimizer.step()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Recurrent(nn.Module):
    """The head of an LSTM has two layers."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(32, 32), nn.Linear(32, 2)
        self.bug = bug

    def forward(self, ids):
        h = self.fc1(self.rnn(self.table(ids))[1][0][-1])
        return self.fc2(h if self.bug else F.gelu(h))


class Transformer(nn.Module):
    """The feed-forward part of a block lost its activation."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.bug = bug

    def forward(self, ids):
        x = self.table(ids)
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        h = self.up(self.norm2(x))
        return self.head((x + self.down(h if self.bug else h.relu())).mean(1))


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(lambda bug: Program(dense(bug)), digits, "net.0 -> net.3", id="mlp"),
        pytest.param(
            lambda bug: Program(Cnn(bug)),
            lambda: digits(flat=False, n=512),
            "net.conv1 -> net.conv2",
            id="cnn, registered and not called",
        ),
        pytest.param(
            lambda bug: Program(Flattened(bug)),
            lambda: digits(flat=False, n=512),
            "net.conv2 -> net.fc1",
            id="cnn, flattened",
        ),
        pytest.param(Handwritten, digits, "w1 -> w2", id="handwritten"),
        pytest.param(
            lambda bug: Program(Recurrent(bug)), sequences, "net.fc1 -> net.fc2", id="lstm"
        ),
        pytest.param(
            lambda bug: Program(Transformer(bug)), sequences, "net.up -> net.down", id="transformer"
        ),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data())
    assert "non-linearity-missing" in names(broken)
    assert places(broken, "non-linearity-missing") == {where}
    assert alarms(fit(lambda: program(False), data())) == []


def test_all_pairs_are_one_finding():
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)], nn.Linear(64, 10))
    suite = fit(lambda: Program(net), digits())
    (finding,) = [f for f in suite.findings if f.name == "non-linearity-missing"]
    assert finding.places == tuple(f"net.{i} -> net.{i + 1}" for i in range(4))
