"""Weights that were meant to be shared, and the same programs with them shared."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names, places

VOCABULARY = 20


def text():
    """Sequences in which each token follows from the one before, mostly."""
    generator = torch.Generator().manual_seed(0)
    follow = torch.randperm(VOCABULARY, generator=generator)
    ids = torch.randint(0, VOCABULARY, (512, 12), generator=generator)
    for t in range(1, 12):
        known = torch.rand(512, generator=generator) < 0.8
        ids[:, t] = torch.where(known, follow[ids[:, t - 1]], ids[:, t])
    return DataLoader(TensorDataset(ids), batch_size=32, shuffle=True)


class LanguageModel(pl.LightningModule):
    """The output layer is the table of tokens, in one way or another."""

    def __init__(self, tie, *, dim=32):
        super().__init__()
        self.tie = tie
        self.table = nn.Embedding(VOCABULARY, dim)
        nn.init.normal_(self.table.weight, std=0.1)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, VOCABULARY, bias=False)
        if tie in ("one", "replaced", "late"):
            self.head.weight = self.table.weight
        if tie == "copy_":
            self.head.weight.data.copy_(self.table.weight)
        if tie == "clone":
            self.head.weight = nn.Parameter(self.table.weight.detach().clone())
        if tie == "data":
            self.head.weight.data = self.table.weight.data
        if tie == "parameter":
            self.head.weight = nn.Parameter(self.table.weight.data)

    def setup(self, stage):
        if self.tie in ("replaced", "late"):
            # The vocabulary is known now.
            self.table = nn.Embedding(VOCABULARY, self.table.embedding_dim)
            nn.init.normal_(self.table.weight, std=0.1)
        if self.tie == "late":
            self.head.weight = self.table.weight

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        out = self.head(self.rnn(self.table(ids[:, :-1]))[0])
        return F.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten())

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=3e-3)


class Attentive(LanguageModel):
    """The same with attention, and a product written by hand."""

    def __init__(self, tie):
        super().__init__(tie)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.rnn = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1] - 1)
        out = self.rnn(self.table(ids[:, :-1]), mask, is_causal=True) @ self.head.weight.T
        return F.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten())


class Autoencoder(Program):
    """The decoder uses the weights of the encoder, until the encoder is built anew."""

    def __init__(self, broken):
        super().__init__(nn.Linear(64, 64, bias=False))
        self.broken = broken
        self.decoder = nn.Linear(64, 64)
        self.decoder.weight = self.net.weight

    def setup(self, stage):
        if self.broken:
            self.net = nn.Linear(64, 64, bias=False)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self.decoder(torch.tanh(self.net(x))), x)


@pytest.mark.parametrize("model", [LanguageModel, Attentive])
@pytest.mark.parametrize(
    "tie",
    [
        pytest.param("replaced", id="table replaced in setup"),
        pytest.param("copy_", id="copied"),
        pytest.param("clone", id="cloned"),
        pytest.param("data", id="the data only"),
        pytest.param("parameter", id="a new parameter over it"),
    ],
)
def test_pair(model, tie):
    broken = fit(lambda: model(tie), text(), epochs=1)
    assert "tied-weights-lost" in names(broken)
    assert places(broken, "tied-weights-lost") <= {"head.weight", "table.weight"}
    fixed = "late" if tie == "replaced" else "one"
    assert alarms(fit(lambda: model(fixed), text(), epochs=1)) == []


def test_autoencoder():
    broken = fit(lambda: Autoencoder(True), digits())
    assert places(broken, "tied-weights-lost") <= {"net.weight", "decoder.weight"}
    assert "tied-weights-lost" in names(broken)
    assert alarms(fit(lambda: Autoencoder(False), digits())) == []
