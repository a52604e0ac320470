"""Models that are shown what they are to predict, and the same models that are not."""

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit, names, places


def language(*, n=256, length=20, vocabulary=15):
    """Token ids; each is one to three steps after the one before."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 4, (n, length), generator=generator)
    ids = (steps.cumsum(1) + torch.randint(0, vocabulary, (n, 1), generator=generator)) % vocabulary
    return DataLoader(TensorDataset(ids), batch_size=32, shuffle=True)


def shifted():
    """The same with inputs and targets made by the dataset."""
    (ids,) = language().dataset.tensors
    return DataLoader(TensorDataset(ids[:, :-1], ids[:, 1:]), batch_size=32, shuffle=True)


def waves(*, n=256, length=24):
    """Noisy sines of two channels, shape (N, T, 2)."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(n, 1, 2, generator=generator)
    time = torch.arange(float(length))[:, None] * torch.tensor([0.5, 0.9])
    x = (time + phase).sin() + 0.1 * torch.randn(n, length, 2, generator=generator)
    return DataLoader(TensorDataset(x), batch_size=32, shuffle=True)


class Gpt(Program):
    """A transformer over ids that are shifted in the step."""

    def __init__(self, mask):
        super().__init__(nn.Embedding(15, 16))
        self.position = nn.Parameter(0.1 * torch.randn(19, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 15)
        self.mask = mask

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        h = self.net(ids[:, :-1]) + self.position
        ahead = torch.ones(19, 19, dtype=torch.bool)
        masks = {
            "none": None,
            "causal": ahead.triu(1),
            "one too many": ahead.triu(2),
            "transposed": ahead.tril(-1),
        }
        logits = self.head(self.block(h, src_mask=masks[self.mask]))
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


class ByHand(Program):
    """Attention spelled out, in a module; logits with the classes second; manual optimization."""

    def __init__(self, causal):
        super().__init__(nn.Embedding(15, 16), optimizer=optim.Adam)
        self.automatic_optimization = False
        self.project = nn.Linear(16, 48)
        self.head = nn.Linear(16, 15)
        self.causal = causal

    def forward(self, ids):
        q, k, v = self.project(self.net(ids)).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 4
        if self.causal:
            ahead = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(ahead, float("-inf"))
        return self.head(scores.softmax(-1) @ v + self.net(ids))

    def training_step(self, batch, batch_idx):
        ids, target = batch
        loss = F.cross_entropy(self(ids).transpose(1, 2), target)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Recurrent(Program):
    """A recurrent net over ids; the loss is picked by hand."""

    def __init__(self, bidirectional):
        super().__init__(nn.Embedding(15, 16))
        self.rnn = nn.LSTM(16, 16, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(32 if bidirectional else 16, 15)

    def training_step(self, batch, batch_idx):
        ids, target = batch
        logits = self.head(self.rnn(self.net(ids))[0]).log_softmax(-1)
        return -logits.gather(-1, target.unsqueeze(-1)).mean()


class Wave(Program):
    """A convolution that forecasts all channels of a series."""

    def __init__(self, causal):
        super().__init__(
            nn.ModuleList([nn.Conv1d(2, 16, 3), nn.Conv1d(16, 2, 3)]),
            optimizer=optim.Adam,
        )
        self.padding = (2, 0) if causal else (1, 1)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        h = x[:, :-1].transpose(1, 2)
        h = self.net[0](F.pad(h, self.padding)).relu()
        out = self.net[1](F.pad(h, self.padding)).transpose(1, 2)
        return ((out - x[:, 1:]) ** 2).mean()


class Normalised(Program):
    """A GRU that forecasts one channel; its input is normalised over all time, or not."""

    def __init__(self, over_time):
        super().__init__(nn.GRU(2, 16, batch_first=True))
        self.norm = nn.InstanceNorm1d(2) if over_time else nn.Identity()
        self.head = nn.Linear(16, 1)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        h = self.norm(x[:, :-1].transpose(1, 2)).transpose(1, 2)
        return F.mse_loss(self.head(self.net(h)[0]).squeeze(-1), x[:, 1:, 0])


class Copies(Program):
    """A causal model whose target was not shifted."""

    def __init__(self, shift):
        super().__init__(nn.Embedding(15, 16))
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 15)
        self.shift = shift

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        x, y = (ids[:, :-1], ids[:, 1:]) if self.shift else (ids, ids)
        logits = self.head(self.rnn(self.net(x))[0])
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


class Table(Program):
    """A regression; the table still holds the target, or does not."""

    def __init__(self, leak):
        super().__init__(
            nn.Sequential(nn.Linear(6 if leak else 5, 16), nn.ReLU(), nn.Linear(16, 1))
        )
        self.leak = leak

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return F.mse_loss(self.net(x if self.leak else x[:, :5]).squeeze(1), x[:, 5])


def tables(*, n=256):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    x[:, 5] = x[:, :5].tanh().sum(1) + 0.5 * x[:, 5]
    return DataLoader(TensorDataset(x), batch_size=32, shuffle=True)


class Window(Program):
    """Forecasts one value of a window in its own units; all of it is normalised in the step."""

    def __init__(self):
        super().__init__(nn.GRU(2, 16, batch_first=True))
        self.head = nn.Linear(16, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        x, y = (x - 300.0) / 40.0, (y - 300.0) / 40.0
        return F.huber_loss(self.head(self.net(x)[0][:, -1]).squeeze(1), y)


def windows(leak):
    """Windows of two series, and what the first is next: or what it is at the end of them."""
    (x,) = waves(n=512).dataset.tensors
    x = 300.0 + 40.0 * x
    pair = (x[:, 1:] if leak else x[:, :-1]), x[:, -1, 0]
    return DataLoader(TensorDataset(*pair), batch_size=32, shuffle=True)


class Series(Program):
    """A GRU that forecasts each step of a series, which the step normalises as a whole."""

    def __init__(self, bidirectional):
        super().__init__(nn.GRU(2, 16, batch_first=True, bidirectional=bidirectional))
        self.head = nn.Linear(32 if bidirectional else 16, 2)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        x = (x + 0.3) / torch.tensor([0.7, 0.9])
        return F.mse_loss(self.head(self.net(x[:, :-1])[0]), x[:, 1:])


PAIRS = [
    pytest.param(
        lambda bad: Gpt("none" if bad else "causal"), language(), "block.self_attn", id="no mask"
    ),
    pytest.param(
        lambda bad: Gpt("one too many" if bad else "causal"),
        language(),
        "block.self_attn",
        id="off by one",
    ),
    pytest.param(
        lambda bad: Gpt("transposed" if bad else "causal"),
        language(),
        "block.self_attn",
        id="transposed",
    ),
    pytest.param(lambda bad: ByHand(not bad), shifted(), "model", id="attention by hand"),
    pytest.param(lambda bad: Recurrent(bad), shifted(), "rnn", id="bidirectional"),
    pytest.param(lambda bad: Wave(not bad), waves(), "net.0", id="convolution"),
    pytest.param(lambda bad: Normalised(bad), waves(), "norm", id="norm over time"),
    pytest.param(lambda bad: Copies(not bad), language(), "training_step", id="not shifted"),
    pytest.param(lambda bad: Table(bad), tables(), "training_step", id="target in the table"),
    pytest.param(lambda bad: Series(bad), waves(), "net", id="normalised in the step"),
]


@pytest.mark.parametrize(("module", "data", "place"), PAIRS)
def test_pair(module, data, place):
    found = fit(lambda: module(True), data, epochs=2)
    assert "future-leak" in names(found)
    assert places(found, "future-leak") == {place}
    assert alarms(fit(lambda: module(False), data, epochs=2)) == []


def test_window_with_the_target():
    found = fit(Window, windows(True), epochs=2)
    assert "future-leak" in names(found)
    (message,) = (f.message for f in found.findings if f.name == "future-leak")
    assert "equals, but for its scale, value 0 of the 2" in message
    assert alarms(fit(Window, windows(False), epochs=2)) == []
