"""Models that throw away what the inputs tell, and the same models that do not."""

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, names


def frozen(wrong):
    """The first layer keeps two random features, or 32 that are trained."""
    width = 2 if wrong else 32
    module = Program(nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)))
    module.net[0].requires_grad_(not wrong)
    module.optimizer = lambda p: optim.Adam([q for q in p if q.requires_grad], lr=3e-3)
    return module


class Pooled(Program):
    """Images are averaged before the layers that should look at them."""

    def __init__(self, wrong):
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
        pool = nn.AdaptiveAvgPool2d(2)
        before = [nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=8)] if wrong else []
        super().__init__(nn.Sequential(*before, *layers, pool, nn.Flatten(), nn.Linear(128, 10)))
        self.optimizer = lambda p: optim.Adam(p, lr=3e-3)


class Tagger(Program):
    """Optimized by hand; its outputs are a step late."""

    def __init__(self, wrong):
        super().__init__(nn.Embedding(12, 16))
        self.automatic_optimization = False
        self.lstm, self.head = nn.LSTM(16, 12, batch_first=True), nn.Linear(12, 4)
        self.wrong = wrong

    def forward(self, ids):
        out, _ = self.lstm(self.net(ids))
        return self.head(torch.cat([out[:, :1], out[:, :-1]], 1) if self.wrong else out)

    def training_step(self, batch, batch_idx):
        ids, tags = batch
        loss = F.cross_entropy(self(ids).transpose(1, 2), tags)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-2)


def tags():
    """The tag of a token is a class of it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 12, (2048, 9), generator=generator)
    return DataLoader(TensorDataset(ids, ids % 4), batch_size=64, shuffle=True)


class Segmenter(Program):
    """Every pixel gets what was seen of the whole image."""

    def __init__(self, wrong):
        super().__init__(
            nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1))
        )
        self.head = nn.Conv2d(16, 1, 1)
        self.wrong = wrong
        self.loss = F.binary_cross_entropy_with_logits
        self.optimizer = lambda p: optim.Adam(p, lr=1e-2)

    def forward(self, x):
        hidden = self.net(x).relu()
        pooled = hidden.mean((2, 3), keepdim=True).expand_as(hidden)
        return self.head(pooled if self.wrong else hidden)


def segments():
    """Pixels that are brighter than their surroundings."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 1, 8, 8, generator=generator)
    mask = (F.avg_pool2d(x, 3, 1, 1) > 0.0).float()
    return DataLoader(TensorDataset(x, mask), batch_size=16, shuffle=True)


class Ordered(nn.Module):
    """Sorts the features of a sample, as one does with a set."""

    def forward(self, x):
        return x.sort(1).values


def regressor(wrong):
    front = [Ordered()] if wrong else []
    net = nn.Sequential(*front, nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    return Program(net, F.mse_loss, lambda p: optim.Adam(p, lr=3e-3))


def table():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    y = x @ torch.tensor([[1.0], [-1.0]] * 4) + 0.3 * torch.randn(512, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(frozen, digits, 6, id="random features that are frozen"),
        pytest.param(Pooled, lambda: digits(flat=False), 4, id="pooled too early"),
        pytest.param(Tagger, tags, 4, id="outputs a step late"),
        pytest.param(Segmenter, segments, 7, id="pixels averaged away"),
        pytest.param(regressor, table, 7, id="features sorted"),
    ],
)
def test_information_is_lost(module, data, epochs):
    found = fit(lambda: module(True), data(), epochs=epochs)
    assert "worse-than-baseline" in names(found)
    assert alarms(fit(lambda: module(False), data(), epochs=epochs)) == []


def test_a_message_says_how_good_they_are():
    found = fit(lambda: regressor(True), table(), epochs=7)
    (finding,) = [f for f in found.findings if f.name == "worse-than-baseline"]
    assert "the model predicts with explained variance 0.0" in finding.message
    (made,) = [e for e in found.experiments if e.name == "simple models on the same batches"]
    assert made.outcome == "found"
    assert made.detail.startswith("explained variance 0.0")
