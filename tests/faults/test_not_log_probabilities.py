"""nll_loss, kl_div and ctc_loss without a logarithm, and the programs without the bug."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def mlp(*last):
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), *last)


class Cnn(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 16, 10)
        self.last = last

    def forward(self, x):
        return self.last(self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)))


class Distillation(Program):
    """A student learns from the soft labels of a teacher."""

    def __init__(self, squash):
        super().__init__(mlp())
        self.teacher = mlp().requires_grad_(False)
        self.squash = squash

    def training_step(self, batch, batch_idx):
        x, y = batch
        target = self.teacher(x).softmax(1)
        out = self.net(x)
        soft = F.kl_div(self.squash(out, 1), target, reduction="batchmean")
        return F.cross_entropy(out, y) + soft


class Tagger(Program):
    def __init__(self, squash):
        super().__init__(nn.Embedding(20, 32))
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 3)
        self.squash = squash
        self.criterion = nn.NLLLoss()

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        out = self.squash(self.head(self.rnn(self.net(ids))[0]))
        return self.criterion(out.transpose(1, 2), ids % 3)


class Speller(Program):
    """Spells what a convolution sees along a strip of pixels, laid out as (steps, samples)."""

    def __init__(self, squash):
        super().__init__(nn.Conv1d(8, 32, 3, padding=1))
        self.head, self.squash, self.criterion = nn.Linear(32, 11), squash, nn.CTCLoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self.head(self.net(x.unflatten(1, (8, 8))).relu().permute(2, 0, 1))
        lengths = torch.full((len(x),), len(out)), torch.ones(len(x), dtype=torch.long)
        return self.criterion(self.squash(out), y[:, None] + 1, *lengths)


@pytest.mark.parametrize(
    ("bug", "fix", "data", "word"),
    [
        pytest.param(
            lambda: Program(mlp(nn.Softmax(1)), F.nll_loss),
            lambda: Program(mlp(nn.LogSoftmax(1)), F.nll_loss),
            digits(),
            "probabilities",
            id="softmax",
        ),
        pytest.param(
            lambda: Program(Cnn(nn.Identity()), F.nll_loss),
            lambda: Program(Cnn(nn.LogSoftmax(1)), F.nll_loss),
            digits(flat=False),
            "but gets",
            id="raw logits of a cnn",
        ),
        pytest.param(
            lambda: Program(Cnn(nn.LogSoftmax(0)), F.nll_loss),
            lambda: Program(Cnn(nn.LogSoftmax(1)), F.nll_loss),
            digits(flat=False),
            "another axis",
            id="log_softmax over the batch",
        ),
        pytest.param(
            lambda: Distillation(F.softmax),
            lambda: Distillation(F.log_softmax),
            digits(),
            "probabilities",
            id="kl_div of probabilities",
        ),
        pytest.param(
            lambda: Distillation(lambda z, dim: 5.0 * z),
            lambda: Distillation(F.log_softmax),
            digits(),
            "but gets",
            id="kl_div of logits",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: Tagger(nn.Softmax(-1)),
            lambda: Tagger(nn.LogSoftmax(-1)),
            sequences(),
            "probabilities",
            id="tagger with NLLLoss",
        ),
        pytest.param(
            lambda: Tagger(torch.sigmoid),
            lambda: Tagger(nn.LogSoftmax(-1)),
            sequences(),
            "none of them negative",
            id="tagger with sigmoids",
        ),
        pytest.param(
            lambda: Speller(nn.Identity()),
            lambda: Speller(nn.LogSoftmax(-1)),
            digits(),
            "ctc_loss expects log-probabilities, but gets raw scores",
            id="ctc of logits",
        ),
        pytest.param(
            lambda: Speller(nn.Softmax(-1)),
            lambda: Speller(nn.LogSoftmax(-1)),
            digits(),
            "ctc_loss expects log-probabilities, but gets probabilities",
            id="ctc of probabilities",
        ),
        pytest.param(
            lambda: Speller(nn.LogSoftmax(1)),
            lambda: Speller(nn.LogSoftmax(-1)),
            digits(),
            "another axis",
            id="ctc of log_softmax over the batch",
        ),
    ],
)
def test_pair(bug, fix, data, word):
    found = fit(bug, data)
    assert "not-log-probabilities" in names(found)
    assert places(found, "not-log-probabilities") <= {"training_step", "criterion"}
    assert not [f for f in found.findings if f.name == "wrong-gradient" and not f.caused_by]
    message = next(f.message for f in found.findings if f.name == "not-log-probabilities")
    assert word in message
    assert alarms(fit(fix, data)) == []
