"""Regressions of many outputs, of which a constant for each explains much."""

from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit


def columns(*, n=1024, batch=32, noise=0.3, strength=1.0):
    """Six targets with levels of their own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 8, generator=generator)
    y = strength * torch.tanh(x @ torch.randn(8, 6, generator=generator) / 3.0)
    y = torch.linspace(-3.0, 3.0, 6) + y + noise * torch.randn(n, 6, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def walks(memory):
    """Three series with levels of their own, that forget soon."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(512, 25, 3, generator=generator)
    steps = [noise[:, 0]]
    for i in range(1, 25):
        steps.append(memory * steps[-1] + (1.0 - memory**2) ** 0.5 * noise[:, i])
    series = torch.stack(steps, 1) + torch.tensor([-1.0, 0.0, 2.0])
    return DataLoader(TensorDataset(series), batch_size=32, shuffle=True)


def mlp(loss=F.mse_loss, optimizer=partial(optim.AdamW, lr=1e-3)):
    layers = nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 6)
    return Program(nn.Sequential(*layers), loss, optimizer)


class Variational(Program):
    """A variational autoencoder: early on it gives the mean image."""

    def __init__(self, decoder, weight):
        encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
        super().__init__(encoder, optimizer=partial(optim.Adam, lr=2e-3))
        self.decoder, self.weight = decoder, weight

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, log = self.net(x).chunk(2, 1)
        made = self.decoder(mean + torch.randn_like(mean) * (log / 2.0).exp())
        divergence = -0.5 * (1.0 + log - mean**2 - log.exp()).sum(1).mean()
        return F.mse_loss(made, x) + self.weight * divergence


def dense():
    return nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))


def upwards():
    return nn.Sequential(
        nn.Linear(8, 256),
        nn.ReLU(),
        nn.Unflatten(1, (16, 4, 4)),
        nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 1, 3, padding=1),
        nn.Flatten(),
    )


class Denoiser(Program):
    """Sees a few pixels around each: it knows nothing of where it is."""

    def __init__(self):
        layers = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)
        super().__init__(nn.Sequential(*layers))

    def training_step(self, batch, batch_idx):
        x = batch[0].view(-1, 1, 8, 8)
        colours = torch.cat([x, x**2 - 1.0, 2.0 - x], 1)
        return F.l1_loss(self.net(x + 0.5 * torch.randn_like(x)), colours)


class Forecast(Program):
    def __init__(self):
        super().__init__(nn.LSTM(3, 32, batch_first=True))
        self.head = nn.Linear(32, 3)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return F.mse_loss(self.head(self.net(x[:, :-1])[0]), x[:, 1:])


PROGRAMS = {
    "columns": (mlp, columns, 6),
    "columns, slowly": (partial(mlp, optimizer=partial(optim.AdamW, lr=1e-4)), columns, 8),
    "columns, hardly told": (
        partial(mlp, F.l1_loss, partial(optim.AdamW, lr=1e-3, weight_decay=0.1)),
        partial(columns, n=4096, noise=2.0, strength=0.7),
        6,
    ),
    "columns, two samples a batch": (mlp, partial(columns, n=512, batch=2), 4),
    "columns, four samples a batch": (partial(mlp, F.smooth_l1_loss), partial(columns, batch=4), 4),
    "variational": (lambda: Variational(dense(), 1e-3), digits, 10),
    "variational, strong prior": (lambda: Variational(dense(), 6e-3), digits, 10),
    "variational, convolutions": (lambda: Variational(upwards(), 1e-3), digits, 10),
    "denoiser": (Denoiser, digits, 6),
    "forecast": (Forecast, partial(walks, 0.3), 10),
    "forecast of next to nothing": (Forecast, partial(walks, 0.2), 14),
}


@pytest.mark.parametrize(("program", "data", "epochs"), PROGRAMS.values(), ids=list(PROGRAMS))
def test_silent(program, data, epochs):
    assert alarms(fit(program, data(), epochs=epochs)) == []
