"""Trainable parts that something cuts off from the loss, and the same programs without the cut."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.runs import Program, alarms, digits, fit, names, places, sequences

SHELVES = torch.linspace(-1, 1, 9)


class Autoencoder(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x):
        z = self.encoder(x)
        return self.decoder(z.detach() if self.cut else z)


class Reconstruction(Program):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(x), x)


class Classifier(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        with torch.set_grad_enabled(not self.cut):
            h = self.features(x)
        return self.head(h.flatten(1))


class Recurrent(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        _, (h, _) = self.rnn(self.table(ids))
        return self.head(h[-1].data if self.cut else h[-1])


class Choice(nn.Module):
    """The first stage picks a code for each sample; argmax has no gradient, softmax has one."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.pick, self.codes = nn.Linear(64, 16), nn.Embedding(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        scores = self.pick(x)
        h = self.codes(scores.argmax(1)) if self.cut else scores.softmax(1) @ self.codes.weight
        return self.head(h)


class Encoder(nn.Module):
    """The class token was made, and never put in front of the sequence."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 32))
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        x = self.table(ids)
        if self.cut:
            return self.head(self.body(x).mean(1))
        return self.head(self.body(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])


class Checkpointed(nn.Module):
    """Reentrant checkpointing of a block whose input asks for no gradient."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.block = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=self.cut))


class DeepSupervision(pl.LightningModule):
    """The auxiliary head runs, and its loss was forgotten."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.body, self.top = nn.Linear(64, 64), nn.Linear(64, 64)
        self.head, self.auxiliary = nn.Linear(64, 10), nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        middle = self.body(x).relu()
        early = self.auxiliary(middle)
        loss = F.cross_entropy(self.head(self.top(middle).relu()), y)
        return loss if self.cut else loss + 0.3 * F.cross_entropy(early, y)

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Gan(pl.LightningModule):
    """The fakes are detached in the step of the generator, too."""

    def __init__(self, cut):
        super().__init__()
        self.automatic_optimization = False
        self.cut = cut
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g_step, d_step = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        d_loss = F.softplus(-self.critic(real)).mean()
        d_loss = d_loss + F.softplus(self.critic(fake.detach())).mean()
        d_step.zero_grad()
        self.manual_backward(d_loss)
        d_step.step()
        g_loss = F.softplus(-self.critic(fake.detach() if self.cut else fake)).mean()
        g_step.zero_grad()
        self.manual_backward(g_loss)
        g_step.step()

    def configure_optimizers(self):
        return (
            optim.Adam(self.generator.parameters(), lr=2e-4),
            optim.Adam(self.critic.parameters(), lr=2e-4),
        )


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            lambda cut: Reconstruction(Autoencoder(cut)),
            digits(),
            ["net.encoder.0.weight", "net.encoder.2.bias"],
            id="autoencoder, detach",
        ),
        pytest.param(
            lambda cut: Program(Classifier(cut)),
            digits(flat=False),
            ["net.features.0.weight", "net.features.3.weight"],
            id="cnn, no_grad",
        ),
        pytest.param(
            lambda cut: Program(Recurrent(cut)),
            sequences(),
            ["net.table.weight", "net.rnn.weight_hh_l0"],
            id="lstm, data",
        ),
        pytest.param(lambda cut: Program(Choice(cut)), digits(), ["net.pick.weight"], id="argmax"),
        pytest.param(
            lambda cut: Program(Encoder(cut)),
            sequences(),
            ["net.token"],
            id="token never used",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda cut: Program(Checkpointed(cut)),
            digits(),
            ["net.block.0.weight", "net.block.2.weight"],
            id="reentrant checkpoint",
        ),
        pytest.param(
            DeepSupervision, digits(), ["auxiliary.weight", "auxiliary.bias"], id="unused head"
        ),
        pytest.param(
            Gan,
            digits(),
            ["generator.0.weight", "generator.2.weight"],
            id="gan, detach in the generator step",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "no-gradient" in names(broken)
    assert set(where) <= places(broken, "no-gradient")
    assert not any("head" in place for place in places(broken, "no-gradient"))
    assert alarms(fit(lambda: program(False), data)) == []


class Cuts(nn.Module):
    """An encoder that is cut off in one of many ways."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32))
        self.codes, self.head = nn.Embedding(32, 32), nn.Linear(32, 10)

    def forward(self, x):
        h = self.encoder(x)
        if self.how == "data":
            h = h.data  # cut here: data
        elif self.how == "numpy":
            h = torch.from_numpy(h.detach().numpy())  # cut here: numpy
        elif self.how == "round":
            h = torch.bucketize(h, SHELVES) / 8.0  # cut here: round
        elif self.how == "argmax":
            h = self.codes(h.argmax(1))  # cut here: argmax
        elif self.how == "item":
            h = x[:, :32] * h.mean().item()  # cut here: item
        elif self.how == "checkpoint":
            h = checkpoint(self.encoder, x, use_reentrant=True)  # cut here: checkpoint
        return self.head(h)


class Watched(Program):
    """Logs what the encoder gives, which is not what cuts it off."""

    def training_step(self, batch, batch_idx):
        self.log("size", self.net.encoder(batch[0]).detach().norm())
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        pytest.param("data", ".data", id="data"),
        pytest.param("numpy", ".detach()", id="numpy"),
        pytest.param("round", "bucketize", id="round"),
        pytest.param("argmax", "argmax", id="argmax"),
        pytest.param("item", ".item()", id="item"),
        pytest.param("checkpoint", "checkpoint(..., use_reentrant=True)", id="checkpoint"),
    ],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_says_where_the_graph_ends(how, said):
    found = fit(lambda: Watched(Cuts(how)), digits())
    (finding,) = [f for f in found.findings if f.name == "no-gradient"]
    assert {"net.encoder.0.weight", "net.encoder.2.weight"} <= set(finding.places)
    assert f"cut off by {said}" in finding.message
    assert f"test_no_gradient.py:{line_of(how)}" in finding.message


def line_of(how):
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith(f"# cut here: {how}"))
