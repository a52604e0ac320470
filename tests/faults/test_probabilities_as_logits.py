"""Probabilities in losses that expect logits, and the programs without the bug."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def mlp(*last):
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), *last)


class Cnn(Program):
    """A handwritten softmax at the end of the forward pass of a CNN."""

    def __init__(self, squash):
        super().__init__(nn.Identity())
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 16, 10)
        self.squash = squash
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))
        if self.squash:
            out = (out - out.amax(1, keepdim=True)).exp()
            out = out / out.sum(1, keepdim=True)
        return self.criterion(out, y)


class Sentiment(Program):
    """A binary LSTM classifier; the sigmoid is a method away from the loss."""

    def __init__(self, squash):
        super().__init__(nn.Embedding(20, 16))
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 1)
        self.squash = squash

    def training_step(self, batch, batch_idx):
        ids, y = batch
        out = self.head(self.lstm(self.net(ids))[1][0][-1])
        out = self.squash(out).squeeze(-1)
        return F.binary_cross_entropy_with_logits(out, y.float())


class Tagger(Program):
    """Classes on axis 1 of (N, C, T), as a transformer tagger has them."""

    def __init__(self, squash):
        super().__init__(nn.Embedding(20, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.block = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)
        self.squash = squash

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        out = self.head(self.block(self.net(ids)))
        out = out.softmax(-1) if self.squash else out
        return F.cross_entropy(out.transpose(1, 2), ids % 3)


class Multilabel(Program):
    def __init__(self, squash):
        super().__init__(mlp())
        self.squash = squash

    def training_step(self, batch, batch_idx):
        x, y = batch
        labels = torch.stack([y % 2, y > 4, y == 3], dim=1).float()
        out = self.net(x)[:, :3]
        return F.multilabel_soft_margin_loss(self.squash(out), labels)


class Marked(Program):
    """Says of each pixel whether it is bright; classes are made of probabilities, as they are."""

    def __init__(self, inside):
        super().__init__(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()))
        self.head = nn.Conv2d(8, 1, 1)
        self.inside = inside

    def forward(self, x):
        out = self.head(self.net(x)).squeeze(1)
        return torch.sigmoid(out) if self.inside else out

    def training_step(self, batch, batch_idx):
        out, bright = self(batch[0]), (batch[0].squeeze(1) > 0).float()
        scores = out if self.inside else torch.sigmoid(out)
        predicted = scores.detach() > 0.5
        self.log("acc", (predicted == bright.bool()).float().mean())
        return F.binary_cross_entropy_with_logits(out, bright)


@pytest.mark.parametrize(
    ("bug", "fix", "data"),
    [
        pytest.param(
            lambda: Program(mlp(nn.Softmax(dim=1))), lambda: Program(mlp()), digits(), id="mlp"
        ),
        pytest.param(
            lambda: Program(mlp(nn.Sigmoid())), lambda: Program(mlp()), digits(), id="ten sigmoids"
        ),
        pytest.param(
            lambda: Cnn(True), lambda: Cnn(False), digits(flat=False), id="handwritten in a cnn"
        ),
        pytest.param(
            lambda: Sentiment(torch.sigmoid),
            lambda: Sentiment(nn.Identity()),
            sequences(),
            id="lstm",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: Sentiment(lambda z: 1 / (1 + torch.exp(-z))),
            lambda: Sentiment(nn.Identity()),
            sequences(),
            id="handwritten sigmoid",
        ),
        pytest.param(
            lambda: Tagger(True), lambda: Tagger(False), sequences(), id="transformer tagger"
        ),
        pytest.param(
            lambda: Multilabel(torch.sigmoid),
            lambda: Multilabel(nn.Identity()),
            digits(),
            id="multilabel",
        ),
    ],
)
def test_pair(bug, fix, data):
    found = fit(bug, data)
    assert "probabilities-as-logits" in names(found)
    assert places(found, "probabilities-as-logits") <= {"training_step", "criterion"}
    assert alarms(fit(fix, data)) == []


def test_under_autocast():
    module = partial(Program, mlp(nn.Softmax(dim=1)))
    found = fit(module, digits(), precision="bf16-mixed")
    assert "probabilities-as-logits" in names(found)


def test_probabilities_are_not_taken_for_logits_that_are_compared_with_a_half():
    found = fit(lambda: Marked(True), digits(flat=False), epochs=3)
    assert "probabilities-as-logits" in names(found)
    assert "metric-misuse" not in names(found)
    assert alarms(fit(lambda: Marked(False), digits(flat=False), epochs=3)) == []
