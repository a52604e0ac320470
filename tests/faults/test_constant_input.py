"""Inputs that do not vary, and the same programs with inputs that do."""

from functools import partial

import pytest
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


class Bytes(Program):
    """Divides pixels of 0 to 255 as integers."""

    def __init__(self, whole):
        super().__init__(conv())
        self.whole = whole

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = (x.int() // 256).float() if self.whole else x.float() / 255.0
        return F.cross_entropy(self(x), y)


class Tokens(Program):
    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.net(ids))[0][:, -1])


class Indexed(Dataset):
    """Returns the same item whatever the index, or the item."""

    def __init__(self, tensors, used):
        self.tensors, self.used = tensors, used

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, index):
        x, y = self.tensors
        return x[index if self.used else 0], y[index]


def images(scale):
    x, y = digits(flat=False).dataset.tensors
    return DataLoader(TensorDataset((x * scale), y), batch_size=32, shuffle=True)


def raw():
    x, y = digits(flat=False).dataset.tensors
    return DataLoader(TensorDataset((x * 255).byte(), y), batch_size=32, shuffle=True)


def indexed(data, used):
    return DataLoader(Indexed(data.dataset.tensors, used), batch_size=32, shuffle=True)


class Cached(Dataset):
    """Caches by the position in the batch instead of the index."""

    def __init__(self, tensors, bug):
        self.tensors, self.bug = tensors, bug

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, index):
        row = index % 32 if self.bug else index
        return self.tensors[0][row], self.tensors[1][row]


def cached(bug):
    return DataLoader(Cached(digits().dataset.tensors, bug), batch_size=32, shuffle=not bug)


@pytest.mark.parametrize(
    ("bug", "fix", "place"),
    [
        pytest.param(
            lambda: (lambda: Program(conv()), images(0.0)),
            lambda: (lambda: Program(conv()), images(1.0)),
            "batch[0]",
            id="all zero",
        ),
        pytest.param(
            lambda: (Tokens, indexed(sequences(), False)),
            lambda: (Tokens, indexed(sequences(), True)),
            "batch[0]",
            id="index not used, tokens",
        ),
        pytest.param(
            lambda: (partial(Bytes, True), raw()),
            lambda: (partial(Bytes, False), raw()),
            "net.0",
            id="lost in an integer division",
        ),
        pytest.param(
            lambda: (lambda: Program(mlp()), cached(True)),
            lambda: (lambda: Program(mlp()), cached(False)),
            "batch[0]",
            id="the same batch",
        ),
    ],
)
def test_inputs(bug, fix, place):
    found, fixed = fit(*bug()), fit(*fix())
    assert "constant-input" in names(found)
    assert places(found, "constant-input") == {place}
    assert not next(f for f in found.findings if f.name == "constant-input").caused_by
    assert alarms(fixed) == []
