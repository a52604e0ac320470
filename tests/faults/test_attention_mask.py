"""Attention that reads padding, and attention that does not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, fit, names, places, sequences


def padded(*, mask=False, floats=False):
    """Sequences of 4 to 16 tokens; padding is 0, or told by a mask of real tokens."""
    ids = sequences().dataset.tensors[0].clone()
    real = torch.arange(16) < torch.arange(len(ids))[:, None] % 13 + 4
    ids[~real] = 0
    label = ((ids == 1).sum(1) > (ids == 2).sum(1)).long()
    x = (F.one_hot(ids, 20) * (ids > 0)[..., None]).float() if floats else ids
    tensors = (x, real, label) if mask else (x, label)
    return DataLoader(TensorDataset(*tensors), batch_size=32, shuffle=True)


class Encoder(nn.Module):
    """Layers of torch, with a padding mask that is right, missing or inverted."""

    def __init__(self, mask):
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.position = nn.Parameter(0.1 * torch.randn(16, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 2)
        self.mask = mask

    def forward(self, ids):
        pad = ids == 0
        mask = {"right": pad, "missing": None}[self.mask]
        h = self.embed(ids) + self.position[: ids.shape[1]]
        h = self.block(h, src_key_padding_mask=mask)
        real = (~pad).unsqueeze(-1)
        return self.head((h * real).sum(1) / real.sum(1))


class Fixed(nn.Module):
    """Learned positions for one length, and a first token that reads the others."""

    def __init__(self, mask):
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.position = nn.Parameter(0.1 * torch.randn(16, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 2)
        self.mask = mask

    def forward(self, ids):
        pad = ids == 0
        h = self.embed(ids) + self.position
        return self.head(self.block(h, src_key_padding_mask=pad if self.mask else None)[:, 0])


class Scores(nn.Module):
    """Attention spelled out, on floats: the mask is added to the scores."""

    def __init__(self, large):
        super().__init__()
        self.project = nn.Linear(20, 48)
        self.head = nn.Linear(16, 2)
        self.large = large

    def forward(self, x, real):
        q, k, v = self.project(x).chunk(3, -1)
        added = (~real).to(x.dtype)[:, None, :]
        scores = q @ k.transpose(1, 2) / 4 - (1e9 * added if self.large else added)
        h = scores.softmax(-1) @ v
        return self.head((h * real[..., None]).sum(1) / real.sum(1, keepdim=True))


class Masked(Program):
    def training_step(self, batch, batch_idx):
        x, real, y = batch
        return F.cross_entropy(self.net(x, real), y)


class Pooled(nn.Module):
    """Pools by attention, or over everything, in the model."""

    def __init__(self, everything):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.everything = everything

    def forward(self, ids):
        pad = ids == 0
        h = self.embed(ids)
        h = h + self.attend(h, h, h, key_padding_mask=pad, need_weights=False)[0]
        if self.everything:
            return self.head(h.mean(1))
        return self.head(h.masked_fill(pad[..., None], 0.0).sum(1) / (~pad).sum(1, keepdim=True))


class Inverted(Masked):
    """A product attention whose boolean mask means the opposite; the loss is that of a tagger."""

    def __init__(self, inverted):
        super().__init__(nn.Embedding(20, 16))
        self.project = nn.Linear(16, 48)
        self.head = nn.Linear(16, 2)
        self.inverted = inverted

    def training_step(self, batch, batch_idx):
        ids, real, _ = batch
        q, k, v = self.project(self.net(ids)).unsqueeze(1).chunk(3, -1)
        mask = (real ^ self.inverted)[:, None, None, :]
        if self.inverted:
            mask = mask | ~mask.any(-1, keepdim=True)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).squeeze(1) + self.net(ids)
        tags = torch.where(real, ids % 2, -100)
        return F.cross_entropy(self.head(h).flatten(0, 1), tags.flatten())


PAIRS = [
    pytest.param(
        lambda bad: Program(Encoder("missing" if bad else "right")),
        padded(),
        "net.block.self_attn",
        id="mask not passed",
    ),
    pytest.param(
        lambda bad: Masked(Scores(not bad)), padded(mask=True, floats=True), "net", id="0 or 1"
    ),
    pytest.param(
        lambda bad: Program(Fixed(not bad)), padded(), "net.block.self_attn", id="fixed length"
    ),
    pytest.param(Inverted, padded(mask=True), "training_step", id="inverted"),
]


@pytest.mark.parametrize(("module", "data", "place"), PAIRS)
def test_pair(module, data, place):
    found = fit(lambda: module(True), data, epochs=1)
    assert "attention-mask" in names(found)
    assert places(found, "attention-mask") == {place}
    assert alarms(fit(lambda: module(False), data, epochs=1)) == []


def test_a_mean_over_padding_is_told_as_information():
    found = fit(lambda: Program(Pooled(True)), padded(), epochs=1)
    assert places(found, "attention-mask") == {"net"}
    assert alarms(found) == []
    assert fit(lambda: Program(Pooled(False)), padded(), epochs=1).findings == []
