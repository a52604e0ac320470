"""Dropout that is on in validation, and the same networks with it off."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug import DropoutUse
from tests.runs import Program, alarms, digits, fit, names, places, quiet_trainer, sequences


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))


class Dense(nn.Module):
    """The flag is left out."""

    def __init__(self, bug):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 10)
        self.bug = bug

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.dropout(x, 0.5) if self.bug else F.dropout(x, 0.5, self.training)
        return self.fc2(x)


class Literal(nn.Module):
    """A CNN that passes True."""

    def __init__(self, bug):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(256, 10)
        self.bug = bug

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        if self.bug:
            x = F.dropout2d(x, p=0.2, training=True)
        else:
            x = F.dropout2d(x, p=0.2, training=self.training)
        return self.fc(x.flatten(1))


class Attention(nn.Module):
    """Attention that takes its dropout whatever the mode is."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.qkv = nn.Embedding(20, 32), nn.Linear(32, 96)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 2)
        self.dropout = 0.1
        self.bug = bug

    def forward(self, ids):
        x = self.table(ids)
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        p = self.dropout if self.bug or self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Listed(nn.Module):
    """Dropouts in a list that is no ModuleList."""

    def __init__(self, bug):
        super().__init__()
        self.lstm, self.table = nn.LSTM(16, 32, batch_first=True), nn.Embedding(20, 16)
        drops = [nn.Dropout(0.3), nn.Dropout(0.2)]
        self.drops = drops if bug else nn.ModuleList(drops)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        x = self.drops[0](self.table(ids))
        return self.head(self.drops[1](self.lstm(x)[0].mean(1)))


class Anew(nn.Module):
    """A dropout that is made in forward."""

    def __init__(self, bug):
        super().__init__()
        self.fc1, self.drop, self.fc2 = nn.Linear(64, 64), nn.Dropout(0.4), nn.Linear(64, 10)
        self.bug = bug

    def forward(self, x):
        drop = nn.Dropout(0.4) if self.bug else self.drop
        return self.fc2(drop(self.fc1(x).relu()))


class Functional(Validated):
    """A network of weights and functions, whose flag has a default that validation forgets."""

    def __init__(self, bug):
        super().__init__(nn.Identity())
        self.w1 = nn.Parameter(torch.randn(64, 64) * 0.125)
        self.w2 = nn.Parameter(torch.randn(64, 10) * 0.125)
        self.bug = bug

    def network(self, x, training=True):
        hidden = F.dropout(torch.relu(x @ self.w1), 0.5, training=training)
        return hidden @ self.w2

    def forward(self, x):
        return self.network(x) if self.bug else self.network(x, self.training)


class Depth(nn.Module):
    """Leaves out a branch for some samples, in evaluation too."""

    def __init__(self, bug):
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.bug = bug

    def dropped(self, x, keep=0.8):
        if not (self.training or self.bug):
            return x
        mask = (keep + torch.rand(x.shape[0], 1)).floor()
        return x / keep * mask

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.dropped(self.branch(x.relu())))


class Locked(nn.Module):
    """One mask for all steps of a sequence, in evaluation too."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head, self.bug = nn.Linear(32, 2), bug

    def forward(self, ids):
        x = self.lstm(self.table(ids))[0]
        if self.training or self.bug:
            mask = x.new_empty(x.shape[0], 1, 32).bernoulli_(0.7) / 0.7
            x = x * mask
        return self.head(x.mean(1))


class Jittered(nn.Module):
    """Smooths what an LSTM gives by noise, in evaluation too."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head, self.bug = nn.Linear(32, 2), bug

    def forward(self, ids):
        x = self.lstm(self.table(ids))[0].mean(1)
        if self.training or self.bug:
            x = x + torch.randn(x.shape) * 0.05
        return self.head(x)


class Factor(nn.Module):
    """Gaussian dropout: a factor around 1 for each pixel, in evaluation too."""

    def __init__(self, bug):
        super().__init__()
        self.fc1, self.fc2, self.bug = nn.Linear(64, 64), nn.Linear(64, 10), bug

    def forward(self, x):
        if self.training or self.bug:
            x = x * (1.0 + torch.empty_like(x).normal_(0.0, 0.3))
        return self.fc2(self.fc1(x).relu())


class Slopes(nn.Module):
    """Random slopes of a ReLU."""

    def __init__(self, bug):
        super().__init__()
        self.fc1, self.fc2, self.bug = nn.Linear(64, 64), nn.Linear(64, 10), bug

    def forward(self, x):
        x = self.fc1(x)
        x = F.rrelu(x, training=True) if self.bug else F.rrelu(x, training=self.training)
        return self.fc2(x)


class Accurate(Program):
    """Validates by the share of hits alone."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(lambda bug: Validated(Dense(bug)), digits, "net", id="mlp, no flag"),
        pytest.param(
            lambda bug: Validated(Literal(bug)),
            lambda: digits(flat=False, n=256),
            "net",
            id="cnn, True",
        ),
        pytest.param(lambda bug: Validated(Attention(bug)), sequences, "net", id="attention"),
        pytest.param(lambda bug: Validated(Listed(bug)), sequences, "net", id="lstm, list"),
        pytest.param(lambda bug: Validated(Anew(bug)), digits, "net", id="made in forward"),
        pytest.param(Functional, digits, "model", id="functions"),
        pytest.param(lambda bug: Validated(Depth(bug)), digits, "net", id="stochastic depth"),
        pytest.param(lambda bug: Validated(Locked(bug)), sequences, "net", id="locked dropout"),
        pytest.param(lambda bug: Validated(Jittered(bug)), sequences, "net", id="noise"),
        pytest.param(lambda bug: Accurate(Factor(bug)), digits, "net", id="noise, hits"),
        pytest.param(lambda bug: Validated(Slopes(bug)), digits, "net", id="random slopes"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data(), validation=data(), limit_train_batches=12)
    assert "dropout-active-in-eval" in names(broken)
    assert places(broken, "dropout-active-in-eval") == {where}
    found = next(f for f in broken.findings if f.name == "dropout-active-in-eval")
    assert "test_dropout_active_in_eval.py:" in found.message
    fixed = fit(lambda: program(False), data(), validation=data(), limit_train_batches=12)
    assert [a for a in alarms(fixed) if "train-val-overlap" not in a] == []


def test_the_section_alone_hears_it():
    section = DropoutUse(sinks=[])
    trainer = quiet_trainer(max_epochs=1, callbacks=[section])
    trainer.fit(Validated(Dense(True)), digits(n=64), digits(n=64))
    assert [finding.name for finding in section.findings] == ["dropout-active-in-eval"]
