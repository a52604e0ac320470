"""Padding that counts in the loss, and the programs that leave it out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit, names, places


def sentences(*, n=512, length=20, vocabulary=30, pad=0, left=False):
    """Token ids of various lengths, padded; a token depends on the one before it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(n, length, dtype=torch.long)
    ids[:, 0] = torch.randint(1, vocabulary, (n,), generator=generator)
    for t in range(1, length):
        step = torch.randint(1, 4, (n,), generator=generator)
        ids[:, t] = (ids[:, t - 1] + step) % (vocabulary - 1) + 1
    lengths = torch.randint(4, length + 1, (n, 1), generator=generator)
    outside = torch.arange(length) >= lengths
    ids[outside.flip(1) if left else outside] = pad
    return DataLoader(TensorDataset(ids), batch_size=32, shuffle=True)


class Rnn(Program):
    """A next-token model with its loss on (N, C, T)."""

    def __init__(self, **loss):
        super().__init__(nn.Embedding(30, 32, padding_idx=0))
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 30)
        self.criterion = nn.CrossEntropyLoss(**loss)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        out = self.head(self.rnn(self.net(ids[:, :-1]))[0])
        return self.criterion(out.transpose(1, 2), ids[:, 1:])


class Transformer(Program):
    """A next-token model with its loss on flattened tokens."""

    def __init__(self, **loss):
        super().__init__(nn.Embedding(30, 32))
        self.position = nn.Parameter(0.02 * torch.randn(19, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.block = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 30)
        self.options = loss

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        mask = nn.Transformer.generate_square_subsequent_mask(19)
        out = self.head(self.block(self.net(ids[:, :-1]) + self.position, mask=mask))
        return F.cross_entropy(out.reshape(-1, 30), ids[:, 1:].reshape(-1), **self.options)


class Tagger(Program):
    """A CNN that tags each token; time comes first, and the loss is an nll_loss."""

    def __init__(self, **loss):
        super().__init__(nn.Embedding(30, 32))
        self.conv = nn.Conv1d(32, 5, 3, padding=1)
        self.options = loss

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        tags = torch.where(ids > 0, ids % 4 + 1, 0).T
        out = self.conv(self.net(ids).transpose(1, 2)).permute(2, 0, 1).log_softmax(-1)
        return F.nll_loss(out.flatten(0, 1), tags.flatten(), **self.options)


@pytest.mark.parametrize(
    ("program", "data", "fix"),
    [
        pytest.param(Rnn, sentences(), {"ignore_index": 0}, id="rnn"),
        pytest.param(Transformer, sentences(), {"ignore_index": 0}, id="transformer, flattened"),
        pytest.param(Transformer, sentences(left=True), {"ignore_index": 0}, id="padded left"),
        pytest.param(Tagger, sentences(), {"ignore_index": 0}, id="tagger, time first"),
        pytest.param(
            Rnn,
            sentences(),
            {"weight": torch.tensor([0.0] + [1.0] * 29)},
            id="weight of 0",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pair(program, data, fix):
    found = fit(program, data, epochs=1)
    assert "padding-in-loss" in names(found)
    assert places(found, "padding-in-loss") <= {"training_step", "criterion"}
    finding = next(f for f in found.findings if f.name == "padding-in-loss")
    assert "class 0" in finding.message
    assert "ignore_index=0" in finding.fix
    assert alarms(fit(lambda: program(**fix), data, epochs=1)) == []
