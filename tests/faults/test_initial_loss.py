"""First losses far above chance, and the programs without the bug."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite
from lightning_debug.checks.loss.initial_loss import InitialLoss
from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def mlp(outputs=10):
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 16, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.relu(self.conv2(x)).flatten(1))


class LanguageModel(Program):
    """A GPT-like model with tied weights; the embedding starts at N(0, 1) or N(0, 0.02)."""

    def __init__(self, std):
        super().__init__(nn.Identity())
        self.embedding = nn.Embedding(20, 128)
        nn.init.normal_(self.embedding.weight, std=std)
        layer = nn.TransformerEncoderLayer(128, 4, 128, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(128)

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        n = ids.shape[1] - 1
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        hidden = self.norm(self.blocks(self.embedding(ids[:, :-1]), mask=mask))
        logits = hidden @ self.embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


class FocalLoss(nn.Module):
    def forward(self, logits, target):
        logp = F.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
        return -((1 - logp.exp()) ** 2 * logp).mean()


class Classifier(Program):
    """An LSTM over the rows of an image, and class weights."""

    def __init__(self, scale):
        super().__init__(nn.LSTM(8, 32, batch_first=True))
        self.head = nn.Linear(32, 10)
        nn.init.normal_(self.head.weight, std=scale)
        self.criterion = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2.0, 10), reduction="sum")

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden, _ = self.net(x.view(-1, 8, 8))
        return self.criterion(self.head(hidden[:, -1]), y)


@pytest.mark.parametrize(
    ("bug", "fix", "data"),
    [
        pytest.param(
            lambda: (Program(mlp()), digits(scale=255.0)),
            lambda: (Program(mlp()), digits()),
            "pixels",
            id="pixels of 0 to 255",
        ),
        pytest.param(
            lambda: (Program(Cnn(), FocalLoss()), digits(flat=False, scale=255.0)),
            lambda: (Program(Cnn(), FocalLoss()), digits(flat=False)),
            "pixels",
            id="pixels of 0 to 255, focal loss",
        ),
        pytest.param(
            lambda: (LanguageModel(1.0), sequences()),
            lambda: (LanguageModel(0.02), sequences()),
            "",
            id="tied embedding at N(0, 1)",
        ),
        pytest.param(
            lambda: (Classifier(5.0), digits(n=512)),
            lambda: (Classifier(0.1), digits(n=512)),
            "head.weight",
            id="large last layer, class weights, summed",
        ),
    ],
)
def test_classification(bug, fix, data):
    found, fixed = _run(*bug()), _run(*fix())
    assert "initial-loss" in names(found)
    assert places(found, "initial-loss") <= {"training_step", "loss", "criterion"}
    assert alarms(fixed) == []
    message = next(f.message for f in found.findings if f.name == "initial-loss")
    if data == "pixels":
        assert "unnormalised input" in message
    elif data:
        assert f"{data} is" in message


def targets(mean, std):
    """The regression task with targets of another scale."""
    x, y = regression().dataset.tensors
    y = (y - y.mean()) / y.std() * std + mean
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


class AutoEncoder(Program):
    """Reconstructs an image."""

    def __init__(self):
        super().__init__(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 1, 2, 2),
            )
        )

    def training_step(self, batch, batch_idx):
        image, target = batch
        return F.l1_loss(self.net(image), target)


def images(scale):
    """Inputs of this scale; targets in 0 to 1."""
    x, _ = digits(flat=False).dataset.tensors
    return DataLoader(TensorDataset(x * scale, x), batch_size=32, shuffle=True)


def head(outputs=1):
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, outputs))


ADAM = partial(torch.optim.Adam, lr=3e-3)


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        pytest.param(
            lambda: (Program(head(), F.mse_loss, ADAM), targets(1000.0, 20.0)),
            lambda: (Program(head(), F.mse_loss, ADAM), targets(0.0, 1.0)),
            id="targets far from zero",
        ),
        pytest.param(
            lambda: (Program(head(), nn.MSELoss(), ADAM), targets(0.0, 1e-3)),
            lambda: (Program(head(), nn.MSELoss(), ADAM), targets(0.0, 1.0)),
            id="tiny targets",
        ),
        pytest.param(
            lambda: (AutoEncoder(), images(255.0)),
            lambda: (AutoEncoder(), images(1.0)),
            id="autoencoder of raw pixels",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_regression(bug, fix):
    found, fixed = _run(*bug()), _run(*fix())
    assert "initial-loss" in names(found)
    assert places(found, "initial-loss") <= {"training_step", "loss"}
    assert alarms(fixed) == []


def _run(module, data):
    return fit(lambda: module, data)


def handwritten(logits, target):
    """Cross entropy, spelled out."""
    return -logits.log_softmax(1).gather(1, target[:, None]).mean()


def weighted(logits, target):
    """Cross entropy with a weight for each class, by indices."""
    logp = torch.log(logits.softmax(1) + 1e-12)[torch.arange(len(target)), target]
    return -(torch.linspace(0.5, 1.5, 10)[target] * logp).mean()


def one_against_all(logits, target):
    """A logistic loss for each class."""
    signs = 2.0 * F.one_hot(target, 10) - 1.0
    return torch.log1p(torch.exp(-(signs * logits).clamp(-50, 50))).sum(1).mean()


def log_cosh(prediction, target):
    """A smooth absolute error."""
    error = prediction - target
    return (error + F.softplus(-2.0 * error) - 0.6931).mean()


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        pytest.param(
            lambda: (Program(mlp(), handwritten), digits(scale=255.0)),
            lambda: (Program(mlp(), handwritten), digits()),
            id="cross entropy by gather",
        ),
        pytest.param(
            lambda: (Program(Cnn(), weighted), digits(flat=False, scale=255.0)),
            lambda: (Program(Cnn(), weighted), digits(flat=False)),
            id="weighted cross entropy by index",
        ),
        pytest.param(
            lambda: (Program(mlp(), one_against_all), digits(scale=255.0)),
            lambda: (Program(mlp(), one_against_all), digits()),
            id="logistic losses",
        ),
        pytest.param(
            lambda: (
                Program(head(), lambda p, y: ((p - y) ** 2).mean(), ADAM),
                targets(1000.0, 20.0),
            ),
            lambda: (Program(head(), lambda p, y: ((p - y) ** 2).mean(), ADAM), targets(0.0, 1.0)),
            id="squared error, targets far from zero",
        ),
        pytest.param(
            lambda: (Program(head(), log_cosh, ADAM), inputs(1000.0)),
            lambda: (Program(head(), log_cosh, ADAM), inputs(1.0)),
            id="log cosh, inputs in the thousands",
        ),
    ],
)
def test_handwritten(bug, fix):
    found, fixed = _run(*bug()), _run(*fix())
    assert "initial-loss" in names(found)
    assert alarms(fixed) == []


def test_a_chance_level_of_your_own():
    class Arc(nn.Module):
        """A loss between a prediction and all others, which no constant can be put into."""

        def forward(self, embedding, target):
            similar = embedding @ embedding.T
            return torch.logsumexp(similar, 1).mean() - similar.diagonal().mean() + 50.0

    suite = DebugSuite(sinks=[], checks=[InitialLoss(chance={"Arc": math.log(32)})])
    found = fit(lambda: Program(mlp(16), Arc()), digits(), suite=suite)
    finding = next(f for f in found.findings if f.name == "initial-loss")
    assert "you gave 3.466 as its chance level" in finding.message


def inputs(scale):
    """The regression task with inputs of another scale."""
    x, y = regression().dataset.tensors
    return DataLoader(TensorDataset(x * scale, y), batch_size=32, shuffle=True)
