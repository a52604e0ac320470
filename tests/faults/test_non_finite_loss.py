"""Losses that turn into NaN in the loss computation itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Segmenter(Program):
    """Handwritten cross entropy on a small convolutional net: log(0) when a class is certain."""

    def __init__(self, eps):
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1)
            )
        )
        self.eps = eps

    def training_step(self, batch, batch_idx):
        x, _ = batch
        foreground = (x > 0.5).long()
        p = (100 * self.net(x)).softmax(1).gather(1, foreground)
        return -torch.log(p + self.eps).mean() / 100


class Masked(Program):
    """The mean over the tokens of one kind; some batches have none of them."""

    def __init__(self, safe):
        super().__init__(nn.Embedding(20, 32))
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 20)
        self.safe = safe

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        hidden, _ = self.rnn(self.net(ids[:, :-1]))
        target = ids[:, 1:].clone()
        if batch_idx == 6:
            target[:] = -100
        logits = self.head(hidden).transpose(1, 2)
        if self.safe:
            loss = F.cross_entropy(logits, target, reduction="sum")
            return loss / (target != -100).sum().clamp(min=1)
        return F.cross_entropy(logits, target)


class Normalised(Program):
    """A loss relative to the spread of the target, and a batch whose targets are all alike."""

    def __init__(self, eps):
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))
        self.eps = eps

    def training_step(self, batch, batch_idx):
        x, y = batch
        y = y.round()
        y = torch.zeros_like(y) if batch_idx == 5 else y
        out = self.net(x)
        return ((out - y) ** 2).mean() / (y.var() + self.eps)


@pytest.mark.parametrize(
    ("bug", "fix", "data"),
    [
        pytest.param(
            lambda: Segmenter(0.0),
            lambda: Segmenter(1e-6),
            lambda: digits(flat=False, n=512),
            id="log of a probability of zero",
        ),
        pytest.param(
            lambda: Masked(False), lambda: Masked(True), sequences, id="no target in the batch"
        ),
        pytest.param(
            lambda: Normalised(0.0), lambda: Normalised(1.0), regression, id="variance of zero"
        ),
    ],
)
def test_pair(bug, fix, data):
    found, fixed = fit(bug, data()), fit(fix, data())
    assert "non-finite-loss" in names(found)
    assert places(found, "non-finite-loss") == {"loss"}
    assert alarms(fixed) == []
