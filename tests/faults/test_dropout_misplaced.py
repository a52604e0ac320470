"""Dropout on predictions, of nearly everything, of the wrong axis; and dropout that gets lost."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))


def dropped_logits(bug):
    last = [nn.Linear(64, 10), nn.Dropout(0.3)]
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *(last if bug else last[::-1]))


class Regression(Program):
    """A loss by hand, on an output that passes dropout as a function."""

    def __init__(self, bug):
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))
        self.bug = bug

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.bug:
            out = F.dropout(self.net(x), 0.2, self.training)
        else:
            out = self.net[2](F.dropout(self.net[:2](x), 0.2, self.training))
        return ((out.squeeze(1) - y.squeeze(1)) ** 2).mean()


class Tagger(Program):
    """An LSTM whose scores are dropped, and turned into a probability afterwards."""

    def __init__(self, bug):
        super().__init__(nn.Embedding(20, 16))
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 2)
        self.drop = nn.Dropout(0.2)
        self.bug = bug

    def forward(self, ids):
        states = self.lstm(self.net(ids))[0].mean(1)
        return self.drop(self.head(states)) if self.bug else self.head(self.drop(states))

    def training_step(self, batch, batch_idx):
        ids, y = batch
        return F.nll_loss(self(ids).log_softmax(-1), y)


class Kept(nn.Module):
    """A CNN with the share that is kept where the share that is dropped belongs."""

    def __init__(self, bug):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(256, 10)
        self.drop = nn.Dropout(0.9 if bug else 0.1)

    def forward(self, x):
        return self.fc(self.drop(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)))


class Samples(nn.Module):
    """Dropout1d on vectors drops whole samples."""

    def __init__(self, bug):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 10)
        self.drop = nn.Dropout1d(0.3) if bug else nn.Dropout(0.3)

    def forward(self, x):
        return self.fc2(self.drop(self.fc1(x).relu()))


def flattened(bug):
    """Dropout2d behind the flattening, as in many a copy of an old example."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 32),
        nn.ReLU(),
        nn.Dropout2d(0.3) if bug else nn.Dropout(0.3),
        nn.Linear(32, 10),
    )


class Steps(nn.Module):
    """Dropout2d on (N, T, C) drops whole time steps."""

    def __init__(self, bug):
        super().__init__()
        self.table, self.inner = nn.Embedding(20, 32), nn.Linear(32, 48)
        self.drop, self.head = (nn.Dropout2d if bug else nn.Dropout1d)(0.3), nn.Linear(48, 2)
        self.bug = bug

    def forward(self, ids):
        x = self.inner(self.table(ids)).relu()
        x = x if self.bug else x.transpose(1, 2)
        return self.head(self.drop(x).mean(1 if self.bug else 2))


class InHook(Validated):
    """Takes dropout out for validation, and forgets to bring it back."""

    def __init__(self, bug):
        drop = nn.Dropout(0.3)
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), drop, nn.Linear(64, 10)))
        self.bug = bug

    def on_validation_epoch_start(self):
        self.net[2].p = 0.0

    def on_validation_epoch_end(self):
        if not self.bug:
            self.net[2].p = 0.3


class OwnDropout(nn.Module):
    """Sets its probability to 0 in evaluation, for good."""

    def __init__(self, bug):
        super().__init__()
        self.p, self.bug = 0.3, bug

    def forward(self, x):
        p = self.p
        if not self.training:
            if self.bug:
                self.p = 0.0
            p = 0.0
        return F.dropout(x, self.p if self.bug else p, training=True)


def switched_off(bug):
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), OwnDropout(bug), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(lambda b: Program(dropped_logits(b)), digits, "net.3", id="mlp, logits"),
        pytest.param(Regression, regression, "model", id="regression by hand"),
        pytest.param(Tagger, sequences, "drop", id="lstm, log-probabilities"),
        pytest.param(
            lambda b: Program(Kept(b)), lambda: digits(flat=False), "net.drop", id="cnn, p"
        ),
        pytest.param(lambda b: Program(Samples(b)), digits, "net.drop", id="whole samples"),
        pytest.param(
            lambda b: Program(flattened(b)),
            lambda: digits(flat=False),
            "net.5",
            id="single values",
            marks=pytest.mark.filterwarnings("ignore:dropout2d"),
        ),
        pytest.param(
            lambda b: Program(Steps(b)),
            sequences,
            "net.drop",
            id="whole time steps",
            marks=pytest.mark.filterwarnings("ignore:dropout2d"),
        ),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data(), limit_train_batches=15)
    assert "dropout-misplaced" in names(broken)
    assert places(broken, "dropout-misplaced") == {where}
    fixed = fit(lambda: program(False), data(), limit_train_batches=15)
    assert alarms(fixed) == []


@pytest.mark.parametrize("sane", [0, 2], ids=["first validation", "sanity check"])
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda bug: Validated(switched_off(bug)), id="forward"),
        pytest.param(InHook, id="hook"),
    ],
)
def test_lost_in_validation(program, sane):
    def run(bug):
        return fit(
            lambda: program(bug),
            digits(n=384),
            validation=digits(n=64),
            num_sanity_val_steps=sane,
        )

    broken = run(True)
    assert places(broken, "dropout-misplaced") == {"net.2"}
    assert "dropout-misplaced" in names(broken)
    assert [a for a in alarms(run(False)) if "train-val-overlap" not in a] == []


def test_a_transposed_input_of_equal_sizes_is_not_judged():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.drop = nn.Embedding(20, 16), nn.Dropout1d(0.2)
            self.head = nn.Linear(16, 2)

        def forward(self, ids):
            return self.head(self.drop(self.table(ids).transpose(1, 2)).mean(2))

    assert alarms(fit(lambda: Program(Square()), sequences())) == []
    assert torch.is_grad_enabled()
