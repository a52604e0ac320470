"""Validation on training samples, and the same programs with a split."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences

ADAM = partial(torch.optim.Adam, lr=3e-3)


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))


class Tokens(Validated):
    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.net(ids))[0][:, -1])


class Data(pl.LightningDataModule):
    def __init__(self, training, validation):
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self):
        return DataLoader(self.training, batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.validation, batch_size=64)


def mlp():
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def same(data):
    return Data(data.dataset, data.dataset)


def split(data):
    n = len(data.dataset)
    return Data(Subset(data.dataset, range(n // 4, n)), Subset(data.dataset, range(n // 4)))


def leaking(data):
    """A third of the validation rows come from the training rows, as copies."""
    x, y = data.dataset.tensors
    n = len(x)
    rows = torch.cat([torch.arange(n // 4), torch.arange(n // 2, n // 2 + n // 8)])
    training = TensorDataset(x[n // 4 :], y[n // 4 :])
    return Data(training, TensorDataset(x[rows].clone(), y[rows].clone()))


@pytest.mark.parametrize(
    ("module", "data", "mix"),
    [
        pytest.param(
            lambda: Validated(conv()), lambda: digits(flat=False), same, id="one dataset for both"
        ),
        pytest.param(Tokens, sequences, leaking, id="copies of some, tokens"),
        pytest.param(
            lambda: Validated(mlp(), F.mse_loss, ADAM), regression, leaking, id="copies of some"
        ),
        pytest.param(lambda: Validated(mlp(), F.mse_loss, ADAM), regression, same, id="floats"),
    ],
)
def test_splits(module, data, mix):
    found, fixed = fit(module, mix(data())), fit(module, split(data()))
    assert "train-val-overlap" in names(found)
    assert places(found, "train-val-overlap") == {"validation data"}
    share = next(f.evidence["share"] for f in found.findings if f.name == "train-val-overlap")
    assert share == pytest.approx(1.0 if mix is same else 1 / 3, abs=0.15)
    assert alarms(fixed) == []


class Bootstrap(Data):
    """Draws each epoch with replacement, as for one member of a bagged ensemble."""

    def train_dataloader(self):
        sampler = RandomSampler(self.training, replacement=True)
        return DataLoader(self.training, batch_size=32, sampler=sampler)


def test_with_replacement():
    def module():
        return Validated(mlp(), F.mse_loss, ADAM)

    x, y = regression().dataset.tensors
    training, copies = TensorDataset(x[128:], y[128:]), TensorDataset(x[256:].clone(), y[256:])
    found = fit(module, Bootstrap(training, copies), epochs=4)
    fixed = fit(module, Bootstrap(training, TensorDataset(x[:128], y[:128])), epochs=4)
    assert places(found, "train-val-overlap") == {"validation data"}
    assert alarms(fixed) == []


def signals(shares=(0.72, 0.18, 0.1), n=1600):
    """Short signals of three kinds, of which two are rare."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
    rate = torch.tensor([0.4, 0.7, 1.0])[y][:, None]
    phase = 6.0 * torch.rand(n, 1, generator=generator)
    x = torch.sin(rate * torch.arange(16.0) + phase) + torch.randn(n, 16, generator=generator)
    return x[:, None], y


def evened(x, y):
    """Copy what is rare until all classes are as frequent."""
    classes = [torch.where(y == c)[0] for c in range(3)]
    most = max(map(len, classes))
    rows = torch.cat([rows[torch.arange(most) % len(rows)] for rows in classes])
    return TensorDataset(x[rows], y[rows])


def test_copied_before_the_split():
    def module():
        body = [nn.Conv1d(1, 16, 5), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()]
        return Validated(nn.Sequential(*body, nn.Linear(16, 3)))

    x, y = signals()
    generator = torch.Generator().manual_seed(1)
    before = torch.utils.data.random_split(evened(x, y), [0.8, 0.2], generator)
    after = evened(x[:1280], y[:1280]), TensorDataset(x[1280:], y[1280:])
    found = fit(module, Data(*before), epochs=4)
    assert places(found, "train-val-overlap") == {"validation data"}
    assert alarms(fit(module, Data(*after), epochs=4)) == []
