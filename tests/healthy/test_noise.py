"""Healthy programs that draw noise in validation, or could."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, digits, fit, names


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))


def mlp(*sizes):
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Bottleneck(nn.Module):
    """A code whose spread is learned, and a class made of a draw of it."""

    def __init__(self, way):
        super().__init__()
        self.body, self.head, self.way = mlp(64, 64, 32), nn.Linear(16, 10), way
        self.spread = nn.Parameter(torch.full((16,), -2.0))

    def forward(self, x):
        mean, spread = self.body(x).chunk(2, -1)
        if self.way == "distribution":
            z = torch.distributions.Normal(mean, 0.1).rsample()
        elif self.way == "parameter":
            z = mean + torch.randn_like(mean) * self.spread.exp()
        else:
            z = mean + F.softplus(spread - 2.0) * torch.randn_like(mean)
        return self.head(z)


class Bayes(nn.Module):
    """Weights that are drawn for each pass."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(10, 64) * 0.1)
        self.spread = nn.Parameter(torch.full((10, 64), -4.0))

    def forward(self, x):
        return F.linear(x, self.mean + torch.randn_like(self.mean) * self.spread.exp())


class Scheduled(nn.Module):
    """Noise of a size that is 0 in evaluation, and some that only keeps values apart."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.fc1(x).relu() + 1e-6 * torch.rand(64)
        return self.fc2(x + (0.1 if self.training else 0.0) * torch.randn_like(x))


class Gumbel(nn.Module):
    """A choice that is drawn, by noise of its own kind."""

    def __init__(self):
        super().__init__()
        self.scores, self.fc1, self.fc2 = nn.Linear(64, 4), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        drawn = self.scores(x) - torch.log(-torch.log(torch.rand(len(x), 4) + 1e-9) + 1e-9)
        parts = self.fc1(x).relu().unflatten(1, (4, 16))
        return self.fc2((parts * drawn.softmax(1).unsqueeze(-1)).flatten(1))


class Smoothed(nn.Module):
    """The mean over copies of each sample, with noise (randomised smoothing)."""

    def __init__(self):
        super().__init__()
        self.net = mlp(64, 64, 10)

    def forward(self, x):
        if self.training:
            return self.net(x + 0.2 * torch.randn_like(x))
        many = x.repeat(8, 1)
        many = many + 0.2 * torch.randn_like(many)
        return self.net(many).unflatten(0, (8, -1)).mean(0)


class Averaged(nn.Module):
    """The mean over views of each sample, with noise."""

    def __init__(self):
        super().__init__()
        self.net = mlp(64, 64, 10)

    def forward(self, x):
        views = 1 if self.training else 5
        return torch.stack([self.net(x + 0.2 * torch.randn_like(x)) for _ in range(views)]).mean(0)


class Generated(nn.Module):
    """Draws a picture of a class, in many steps."""

    def __init__(self):
        super().__init__()
        self.table, self.net = nn.Embedding(10, 16), mlp(80, 64, 64)

    def forward(self, y):
        x = torch.randn(len(y), 64)
        for _ in range(2):
            x = self.net(torch.cat([x, self.table(y)], 1)) + 0.1 * torch.randn_like(x)
        return x


class Conditional(Program):
    """Holds pictures that it draws of a class against those of the class."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(y), x)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class Diffusion(nn.Module):
    """Adds noise to what it gets, and returns its loss; what it predicts varies."""

    def __init__(self, target):
        super().__init__()
        self.net, self.target = mlp(65, 64, 64), target

    def forward(self, x):
        t = torch.randint(1, 10, (len(x), 1)) / 10.0
        noise = torch.randn_like(x)
        noisy = (1.0 - t).sqrt() * x + t.sqrt() * noise if self.target != "plain" else x + noise
        made = self.net(torch.cat([noisy, t], 1))
        return F.mse_loss(made, noise if self.target == "noise" else x)


class Own(Program):
    """The network gives the loss."""

    def training_step(self, batch, batch_idx):
        return self.net(batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class Channel(nn.Module):
    """Learns a code for a noisy channel: the noise is there in evaluation as well."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.encoder, self.decoder = mlp(inputs, 32, 7), mlp(7, 32, outputs)

    def forward(self, x):
        sent = self.encoder(x)
        sent = math.sqrt(7) * F.normalize(sent, dim=1)
        return self.decoder(sent + 0.3 * torch.randn_like(sent))


class Autoencoder(Program):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(x), x)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


def messages():
    """One-hot messages, and their numbers."""
    ids = torch.randint(0, 16, (1024,), generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(torch.eye(16)[ids], ids), 32, shuffle=True)


def pairs():
    """Pictures twice, as data sets for autoencoders give them."""
    x = digits().dataset.tensors[0]
    return DataLoader(TensorDataset(x, x.clone()), 32, shuffle=True)


class Restored(nn.Module):
    """Measures what it gets, with an error, and finds out what it was."""

    def __init__(self):
        super().__init__()
        self.register_buffer("operator", torch.randn(64, 32) / 8.0)
        self.net = mlp(32, 64, 64)

    def forward(self, x):
        measured = x @ self.operator
        return self.net(measured + 0.05 * torch.randn_like(measured))


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(lambda: Validated(Bottleneck("distribution")), digits, id="distribution"),
        pytest.param(lambda: Validated(Bottleneck("parameter")), digits, id="learned spread"),
        pytest.param(lambda: Validated(Bottleneck("layer")), digits, id="spread of a layer"),
        pytest.param(lambda: Validated(Bayes()), digits, id="drawn weights"),
        pytest.param(lambda: Validated(Scheduled()), digits, id="of size 0"),
        pytest.param(lambda: Validated(Gumbel()), digits, id="drawn choice"),
        pytest.param(lambda: Validated(Smoothed()), digits, id="smoothed"),
        pytest.param(lambda: Validated(Averaged()), digits, id="views"),
        pytest.param(lambda: Conditional(Generated()), digits, id="generator"),
        pytest.param(lambda: Own(Diffusion("noise")), digits, id="diffusion, noise"),
        pytest.param(lambda: Own(Diffusion("data")), digits, id="diffusion, data"),
        pytest.param(lambda: Own(Diffusion("plain")), digits, id="denoiser"),
        pytest.param(lambda: Validated(Channel(16, 16)), messages, id="channel"),
        pytest.param(lambda: Autoencoder(Channel(64, 64)), digits, id="picture over a channel"),
        pytest.param(
            lambda: Validated(Channel(64, 64), F.mse_loss), pairs, id="the same in two tensors"
        ),
        pytest.param(lambda: Autoencoder(Restored()), digits, id="inverse problem"),
    ],
)
def test_noise(program, data):
    suite = fit(program, data(), validation=data(), limit_train_batches=12, epochs=1)
    assert "dropout-active-in-eval" not in names(suite)
