"""Losses that turn into NaN in the loss computation itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Segmenter(Program):
    """Handwritten divergence from one-hot masks: 0 * log(0) is not 0."""

    def __init__(self, safe):
        super().__init__(
            nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))
        )
        self.safe = safe

    def training_step(self, batch, batch_idx):
        x, _ = batch
        target = torch.cat([x <= 0.5, x > 0.5], 1).float()
        if self.safe:
            return F.kl_div(self.net(x).log_softmax(1), target, reduction="batchmean") / 64
        p = self.net(x).softmax(1)
        return (target * torch.log(target / p)).sum(1).mean()


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
            lambda: Segmenter(False),
            lambda: Segmenter(True),
            lambda: digits(flat=False, n=512),
            id="handwritten divergence",
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
