"""Training data in the order of the file, and the same programs with it shuffled."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def mlp(inputs=64, outputs=10):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


class Tokens(Program):
    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        self.rnn = nn.LSTM(32, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.net(ids))[0][:, -1])


class Handwritten(Program):
    """Least squares by hand."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return ((self.net(x) - y) ** 2).mean()


def ordered(data, *, by_target, shuffle, **settings):
    x, y = data.dataset.tensors
    if by_target:
        order = y.flatten().argsort(stable=True)
        x, y = x[order], y[order]
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=shuffle, **settings)


@pytest.mark.parametrize(
    ("module", "data", "by_target"),
    [
        pytest.param(lambda: Program(mlp()), digits, True, id="sorted by class"),
        pytest.param(Tokens, sequences, True, id="sorted, two classes, tokens"),
        pytest.param(
            lambda: Handwritten(mlp(8, 1)), regression, True, id="sorted by a float target"
        ),
        pytest.param(
            lambda: Program(conv()),
            lambda: digits(flat=False),
            False,
            id="the same random order",
        ),
        pytest.param(Tokens, sequences, False, id="the same order, tokens"),
        pytest.param(
            lambda: Program(mlp(8, 1), F.mse_loss), regression, False, id="the same order, floats"
        ),
    ],
)
def test_order(module, data, by_target):
    found = fit(module, ordered(data(), by_target=by_target, shuffle=False))
    fixed = fit(module, ordered(data(), by_target=by_target, shuffle=True))
    assert "data-not-shuffled" in names(found)
    assert places(found, "data-not-shuffled") <= {"targets", "train_dataloader"}
    assert ("targets" in places(found, "data-not-shuffled")) is by_target
    roots = {f.name for f in found.findings if not f.caused_by and f.severity > Severity.INFO}
    assert roots == {"data-not-shuffled"}
    assert alarms(fixed) == []


class Reseeded(Program):
    """Seeds everything at the start of each epoch, with the same number or with another."""

    def __init__(self, again):
        super().__init__(mlp())
        self.again = again

    def on_train_epoch_end(self):
        torch.manual_seed(0 if self.again else self.current_epoch)


def test_shuffled_from_one_seed():
    found = fit(lambda: Reseeded(True), digits(), epochs=4)
    fixed = fit(lambda: Reseeded(False), digits(), epochs=4)
    assert "data-not-shuffled" in names(found)
    assert "seed" in next(f.fix for f in found.findings if f.name == "data-not-shuffled")
    assert alarms(fixed) == []


class Grouped(Sampler):
    """Batches of positives, then of negatives; or what it has collected, in random order."""

    def __init__(self, y, mixed):
        self.y, self.mixed = y, mixed

    def __iter__(self):
        groups = [torch.where(self.y == c)[0] for c in self.y.unique()]
        rows = torch.cat([group[torch.randperm(len(group))] for group in groups])
        rows = rows[torch.randperm(len(rows))] if self.mixed else rows
        return iter(part.tolist() for part in rows.split(32))

    def __len__(self):
        return -(-len(self.y) // 32)


def test_a_sampler_that_goes_class_by_class():
    def data(mixed):
        x, y = sequences().dataset.tensors
        return DataLoader(TensorDataset(x, y), batch_sampler=Grouped(y, mixed))

    found, fixed = fit(Tokens, data(False), epochs=8), fit(Tokens, data(True), epochs=8)
    assert "sampler" in places(found, "data-not-shuffled")
    assert "data-not-shuffled" in names(found)
    assert alarms(fixed) == []
