"""Healthy data that look odd: raw scales that do no harm, missing values, toys, series, splits."""

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)

from tests.runs import Program, alarms, digits, fit, regression, sequences

ADAM = partial(torch.optim.Adam, lr=3e-3)


def mlp(inputs=64, outputs=10, width=64):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def loader(*tensors, batch=32, shuffle=True, **settings):
    return DataLoader(TensorDataset(*tensors), batch_size=batch, shuffle=shuffle, **settings)


def pixels():
    return digits().dataset.tensors


def task(n=512, features=8, seed=0):
    """Standard normal features with a smooth target."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    return x, (x[:, :1] * x[:, 1:2] + x.sum(1, keepdim=True)) / 3.0


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("val_loss", loss)
        return loss


class Data(pl.LightningDataModule):
    def __init__(self, training, validation):
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self):
        return self.training

    def val_dataloader(self):
        return self.validation


# -- scales ----------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Divides on the way in."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x / 255.0 - 0.3) / 0.35)


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 64), nn.Linear(64, 1)
        with torch.no_grad():
            self.first.weight.uniform_(-1, 1)

    def forward(self, x):
        return self.second(torch.sin(3.0 * self.first(x)))


class Fourier(nn.Module):
    """Raw positions of 0 to 100 become sines and cosines before any weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi / 100.0 * torch.arange(1.0, 9.0))
        self.net = mlp(16, 1)

    def forward(self, x):
        angles = x * self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], dim=1))


class Clock(nn.Module):
    """Sines and cosines of a time of day in seconds; it has no weights."""

    def forward(self, seconds):
        angles = 2 * math.pi * seconds / 86400.0 * torch.tensor([1.0, 2.0, 4.0, 8.0])
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Frozen(nn.Module):
    """A trained part whose features are large, and a new head whose weights are made for them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Flatten()).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(40.0), requires_grad=False)
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            self.head.weight /= self.scale

    def forward(self, x):
        return self.head(self.scale * self.body(x))


class Diffusion(Program):
    """Predicts noise; the raw time step of 0 to 1000 goes into a sinusoidal embedding."""

    def __init__(self):
        super().__init__(mlp(64 + 16, 64))
        self.time = nn.Linear(16, 16)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t = torch.randint(0, 1000, (len(x),))
        angles = t[:, None] * torch.exp(-torch.arange(8.0))
        embedded = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)))
        keep = torch.cos(t / 1000.0 * math.pi / 2.0)[:, None]
        noise = torch.randn_like(x)
        noisy = keep * (2 * x - 1) + (1 - keep**2).sqrt() * noise
        return F.mse_loss(self.net(torch.cat([noisy, embedded], 1)), noise)


class Positions(Program):
    """Adds a projection of raw positions of 0 to 63, which the model makes itself."""

    def __init__(self):
        super().__init__(nn.Linear(1, 32))
        self.position = nn.Linear(1, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        position = self.position(torch.arange(64.0)[:, None])
        return self.head(self.norm(self.net(x[:, :, None]) + position).mean(1))


def bags(scale="counts"):
    """Word counts, or their tf-idf, of 300 words; most are 0."""
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand(2, 300, generator=generator) ** 4
    y = torch.randint(0, 2, (512,), generator=generator)
    x = torch.poisson(rate[y], generator=generator)
    if scale == "counts":
        return x, y
    return F.normalize(x * (1.0 / (x > 0).float().mean(0).clamp_min(0.01)).log(), dim=1), y


def mixed():
    """Six standardised columns, a constant one, a flag and a one-hot vector."""
    x, y = task(features=6)
    kind = F.one_hot(torch.arange(512) % 5, 5).float()
    flag = (torch.arange(512) % 97 == 0).float()[:, None]
    return torch.cat([x, torch.ones(512, 1), flag, kind], 1), y


def trained_on_raw_pixels():
    """A network whose first weights are made for pixels of 0 to 255."""
    torch.manual_seed(1)
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(6):
        for x, y in digits():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        net[0].weight /= 255.0
    return Program(net, optimizer=partial(torch.optim.SGD, lr=1e-5))


def conv(norm=False):
    middle = [nn.BatchNorm2d(8)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )


def line():
    x = torch.linspace(-1, 1, 512)[:, None]
    return x, torch.sin(5 * x)


def positions():
    x = 100.0 * torch.rand(512, 1, generator=torch.Generator().manual_seed(0))
    return x, torch.sin(x / 10.0)


def times():
    x = 86400.0 * torch.rand(512, 1, generator=torch.Generator().manual_seed(0))
    return x, torch.sin(2 * math.pi * x / 86400.0)


def unit_embeddings():
    """Vectors of norm 1 with 2048 dense columns."""
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(512, 2048, generator=generator), dim=1)
    return x, (x[:, :20].sum(1) > 0).long()


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(lambda: Program(mlp()), lambda: digits(scale=16.0), id="0 to 16"),
        pytest.param(
            lambda: Program(conv()),
            lambda: loader((digits(flat=False).dataset.tensors[0] - 0.3) / 0.35, pixels()[1]),
            id="standardised images",
        ),
        pytest.param(
            lambda: Program(conv(norm=True)),
            lambda: digits(flat=False, scale=255.0),
            id="0 to 255 before convolution and batch norm",
        ),
        pytest.param(
            lambda: Program(nn.Sequential(nn.BatchNorm1d(64), mlp())),
            lambda: digits(scale=255.0),
            id="batch norm first",
        ),
        pytest.param(
            lambda: Program(nn.Sequential(nn.LayerNorm(64, elementwise_affine=False), mlp())),
            lambda: digits(scale=255.0),
            id="layer norm first",
        ),
        pytest.param(
            lambda: Program(Scaled(mlp())), lambda: digits(scale=255.0), id="divides in forward"
        ),
        pytest.param(
            trained_on_raw_pixels, lambda: digits(scale=255.0), id="trained for raw pixels"
        ),
        pytest.param(
            lambda: Program(mlp(300, 2)), lambda: loader(*bags("counts")), id="bag of words"
        ),
        pytest.param(lambda: Program(mlp(300, 2)), lambda: loader(*bags("tf-idf")), id="tf-idf"),
        pytest.param(
            lambda: Program(mlp(13, 1), F.mse_loss), lambda: loader(*mixed()), id="mixed columns"
        ),
        pytest.param(
            lambda: Program(mlp(2048, 2), optimizer=ADAM),
            lambda: loader(*unit_embeddings()),
            id="unit vectors",
        ),
        pytest.param(lambda: Program(Siren(), F.mse_loss), lambda: loader(*line()), id="SIREN"),
        pytest.param(
            lambda: Program(Fourier(), F.mse_loss), lambda: loader(*positions()), id="Fourier"
        ),
        pytest.param(
            lambda: Program(nn.Sequential(Clock(), mlp(8, 1)), F.mse_loss),
            lambda: loader(*times()),
            id="a clock without weights",
        ),
        pytest.param(
            lambda: Program(Frozen(), optimizer=partial(torch.optim.SGD, lr=1e-4)),
            digits,
            id="features of a frozen part",
        ),
        pytest.param(Diffusion, digits, id="diffusion"),
        pytest.param(lambda: Positions(), digits, id="positions made by the model"),
    ],
)
def test_scales(module, data):
    assert alarms(fit(module, data(), epochs=2)) == []


# -- missing values --------------------------------------------------------------------------


class Filled(Program):
    """Missing inputs become 0, with a flag; missing targets do not count."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = torch.cat([torch.nan_to_num(x), x.isnan().float()], 1)
        there = y.isfinite()
        return F.mse_loss(self.net(x)[there], y[there])


class Masked(Program):
    """Attention with a mask of minus infinity that comes with the batch."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        ids, mask, y = batch
        hidden = self.net(ids)
        hidden, _ = self.attention(hidden, hidden, hidden, key_padding_mask=mask)
        return F.cross_entropy(self.head(hidden.mean(1)), y)


def test_missing_values():
    x, y = task()
    generator = torch.Generator().manual_seed(0)
    x = x.masked_fill(torch.rand(x.shape, generator=generator) < 0.1, math.nan)
    y = y.masked_fill(torch.rand(y.shape, generator=generator) < 0.1, math.nan)
    assert alarms(fit(lambda: Filled(mlp(16, 1)), loader(x, y))) == []


def test_mask_of_minus_infinity():
    ids, y = sequences().dataset.tensors
    lengths = torch.randint(4, 17, (len(ids), 1), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(ids.shape).masked_fill(torch.arange(16) >= lengths, -math.inf)
    assert alarms(fit(Masked, loader(ids, mask, y))) == []


# -- little variety --------------------------------------------------------------------------


class Conditioned(Program):
    """The condition is the same for all, on purpose, and so is the mask."""

    def training_step(self, batch, batch_idx):
        x, condition, mask, y = batch
        out = self.net(torch.cat([x, condition], 1)) * mask
        return F.mse_loss(out, y * mask)


class Unconditional(Program):
    """Learns a distribution; its input is a dummy."""

    def training_step(self, batch, batch_idx):
        dummy, y = batch
        return F.mse_loss(self.net(dummy), y)


class AutoDecoder(Program):
    """One learned latent for all, made by the model."""

    def __init__(self):
        super().__init__(mlp(16, 64))
        self.latent = nn.Parameter(torch.randn(1, 16))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self.net(self.latent.expand(len(x), -1)), x)


class Gan(Program):
    def __init__(self):
        super().__init__(mlp(16, 64))
        self.critic = mlp(64, 1)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, _ = batch
        first, second = self.optimizers()
        fake = self.net(torch.randn(len(x), 16))
        ones = torch.ones(len(x), 1)
        bce = F.binary_cross_entropy_with_logits
        critic = bce(self.critic(x), ones) + bce(self.critic(fake.detach()), torch.zeros_like(ones))
        second.zero_grad()
        self.manual_backward(critic)
        second.step()
        first.zero_grad()
        self.manual_backward(bce(self.critic(fake), ones))
        first.step()

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.net.parameters(), lr=1e-4),
            torch.optim.Adam(self.critic.parameters(), lr=1e-4),
        )


class OneClass(Program):
    """Deep SVDD: all labels are 0 and not used; the outputs go to a fixed centre."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return ((self.net(x) - 0.5) ** 2).sum(1).mean()


class Pairs(Program):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        a = F.normalize(self.net(x + 0.05 * torch.randn_like(x)), dim=1)
        b = F.normalize(self.net(x + 0.05 * torch.randn_like(x)), dim=1)
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(x)))


class Spelled(Program):
    """One name a batch, of shape (letters, features), read letter by letter."""

    def __init__(self):
        super().__init__(nn.RNNCell(3, 32))
        self.head = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        letters, y = batch
        state = torch.zeros(1, 32)
        for letter in letters.split(1):
            state = self.net(letter, state)
        return F.cross_entropy(self.head(state), y)


class Bag(Program):
    """One set a batch, of any size; its mean goes into the first layer."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2)))

    def training_step(self, batch, batch_idx):
        items, y = batch
        return F.cross_entropy(self(items.mean(0, keepdim=True)), y)


def one_a_batch(longest):
    """Sets of points around one of two centres, with their class; one makes a batch."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(400):
        size = 8 + i // 2 % (longest - 7)
        points = torch.randn(size, 3, generator=generator) + 0.5 * (2 * (i % 2) - 1)
        items.append((points, torch.tensor([i % 2])))
    return DataLoader(items, batch_size=None, shuffle=True)


class BoundaryAndResidual(Program):
    """A differential equation: the batch brings boundary points with u = 0."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))

    def training_step(self, batch, batch_idx):
        edge, zero = batch
        x = torch.rand(32, 1, requires_grad=True)
        slope = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]
        residual = ((slope - torch.cos(3 * x)) ** 2).mean()
        return residual + F.mse_loss(self.net(edge), zero)


def xor():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(100, 1)
    return x, (x[:, :1] != x[:, 1:]).float()


def conditions():
    x, y = task(features=4)
    return x, torch.full((512, 2), 0.5), torch.ones(512, 1), y


def edges():
    return torch.tensor([[0.0], [1.0]]).repeat(256, 1), torch.zeros(512, 1)


def rare():
    """One sample in sixty is positive."""
    x, _ = task()
    y = (torch.arange(len(x)) % 60 == 7).float()[:, None]
    return x + 3.0 * y, y


BCE = F.binary_cross_entropy_with_logits


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(
            lambda: Conditioned(mlp(6, 1)), lambda: loader(*conditions()), id="condition and mask"
        ),
        pytest.param(
            lambda: Unconditional(nn.Linear(1, 1)),
            lambda: loader(torch.ones(512, 1), task()[1]),
            id="dummy input",
        ),
        pytest.param(AutoDecoder, digits, id="learned latent"),
        pytest.param(lambda: Program(mlp(2, 1), BCE, ADAM), lambda: loader(*xor()), id="XOR"),
        pytest.param(
            lambda: Program(mlp(2, 1), BCE, ADAM),
            lambda: loader(*xor(), batch=4, shuffle=False),
            id="XOR, the same batch",
        ),
        pytest.param(
            lambda: Program(mlp(8, 1), F.mse_loss, ADAM),
            lambda: loader(*task(), batch=512),
            id="full batch",
        ),
        pytest.param(Gan, digits, id="GAN"),
        pytest.param(
            lambda: OneClass(mlp()),
            lambda: loader(pixels()[0], torch.zeros(1024).long()),
            id="one class",
        ),
        pytest.param(lambda: Pairs(mlp()), digits, id="contrastive"),
        pytest.param(BoundaryAndResidual, lambda: loader(*edges()), id="boundary values"),
        pytest.param(
            lambda: Program(mlp(8, 1), BCE, ADAM), lambda: loader(*rare()), id="rare positives"
        ),
        pytest.param(Spelled, lambda: one_a_batch(8), id="names, letter by letter"),
        pytest.param(Bag, lambda: one_a_batch(8), id="means of sets"),
        pytest.param(Bag, lambda: one_a_batch(16), id="means of sets of many sizes"),
    ],
)
def test_little_variety(module, data):
    epochs = 20 if len(data()) == 1 else 2
    assert alarms(fit(module, data(), epochs=epochs)) == []


def test_overfitting_a_batch_on_purpose():
    run = fit(lambda: Program(mlp()), digits(), epochs=15, overfit_batches=2)
    assert alarms(run) == []


# -- order -----------------------------------------------------------------------------------


def waves(windows=640, length=16):
    """Windows over a noisy sine that move on by one step; the target is the next value."""
    generator = torch.Generator().manual_seed(0)
    series = torch.sin(torch.arange(windows + length) / 9.0)
    series = series + 0.1 * torch.randn(len(series), generator=generator)
    x = series.unfold(0, length, 1)[:windows]
    return x, series[length : length + windows, None]


def returns(windows=640, length=16):
    """Windows over white noise; the target is the mean size of the last steps."""
    series = torch.randn(windows + length, generator=torch.Generator().manual_seed(0))
    x = series.unfold(0, length, 1)[:windows]
    return x, x[:, -4:].abs().mean(1, keepdim=True)


class Stream(IterableDataset):
    def __iter__(self):
        x, y = pixels()
        yield from zip(x, y, strict=True)


class Curriculum(Sampler):
    """Easy samples first, the same in each epoch."""

    def __init__(self, values):
        self.order = values.argsort().tolist()

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


class ClassBatches(Sampler):
    """Batches of two classes each, in random order."""

    def __init__(self, y):
        self.classes = [torch.where(y == c)[0] for c in range(10)]

    def __iter__(self):
        for _ in range(30):
            a, b = torch.randperm(10)[:2].tolist()
            rows = torch.cat([self.classes[a][:100], self.classes[b][:100]])
            yield rows[torch.randperm(len(rows))[:32]].tolist()

    def __len__(self):
        return 30


class EachClassOnce(Sampler):
    """A batch of each class, in an order that is drawn for each epoch."""

    def __init__(self, y):
        self.classes = [torch.where(y == c)[0] for c in range(10)]

    def __iter__(self):
        for c in torch.randperm(10).tolist():
            rows = self.classes[c]
            yield from (part.tolist() for part in rows[torch.randperm(len(rows))].split(16))

    def __len__(self):
        return sum(-(-len(rows) // 16) for rows in self.classes)


class Chunks(Sampler):
    """Chunks of a recording in the order of time, from a random start: it went on for long."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        start = int(torch.randint(32, ()))
        return iter(range(start, self.samples))

    def __len__(self):
        return self.samples - 16


def recording():
    """Windows of a sensor that was worn through three activities, one after the other."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(640) * 3 // 640
    speed = torch.tensor([0.3, 0.6, 1.2])[y]
    waves = torch.sin(torch.cumsum(speed, 0)) + 0.1 * torch.randn(640, generator=generator)
    return TensorDataset(waves.unfold(0, 16, 1), y[15:])


class Balanced(Sampler):
    """As many of each class in a batch, drawn anew."""

    def __init__(self, y):
        self.classes = [torch.where(y == c)[0] for c in range(10)]

    def __iter__(self):
        for _ in range(30):
            yield torch.cat([c[torch.randperm(len(c))[:3]] for c in self.classes]).tolist()

    def __len__(self):
        return 30


def sampled(sampler):
    x, y = pixels()
    return DataLoader(TensorDataset(x, y), batch_size=32, sampler=sampler(x, y))


def batched(sampler):
    x, y = pixels()
    return DataLoader(TensorDataset(x, y), batch_sampler=sampler(y))


FORECAST = partial(Program, loss=F.mse_loss, optimizer=ADAM)


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(
            lambda: FORECAST(mlp(16, 1)),
            lambda: loader(*waves(), shuffle=False),
            3,
            id="time series in order",
        ),
        pytest.param(
            lambda: FORECAST(mlp(16, 1)),
            lambda: loader(*returns(), shuffle=False),
            3,
            id="windows over noise in order",
        ),
        pytest.param(
            lambda: Program(mlp()), lambda: DataLoader(Stream(), batch_size=32), 2, id="stream"
        ),
        pytest.param(
            lambda: Program(mlp()),
            lambda: sampled(lambda x, y: Curriculum(x.std(1))),
            2,
            id="curriculum",
        ),
        pytest.param(lambda: Program(mlp()), lambda: batched(ClassBatches), 2, id="class batches"),
        pytest.param(lambda: Program(mlp()), lambda: batched(Balanced), 2, id="balanced batches"),
        pytest.param(
            lambda: Program(mlp()), lambda: batched(EachClassOnce), 6, id="each class once"
        ),
        pytest.param(
            lambda: Program(mlp(16, 3)),
            lambda: DataLoader(recording(), batch_size=16, sampler=Chunks(625)),
            8,
            id="recording in the order of time",
        ),
        pytest.param(
            lambda: Program(mlp()),
            lambda: sampled(lambda x, y: WeightedRandomSampler(torch.ones(1024), 1024)),
            2,
            id="weighted sampler",
        ),
        pytest.param(
            lambda: Program(mlp()), lambda: loader(*pixels(), shuffle=False), 1, id="one pass"
        ),
        pytest.param(
            lambda: Program(mlp(8, 1), F.mse_loss, ADAM),
            lambda: loader(*task(), batch=256, shuffle=False),
            15,
            id="two batches",
        ),
    ],
)
def test_order(module, data, epochs):
    assert alarms(fit(module, data(), epochs=epochs)) == []


# -- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(
            lambda: Validated(mlp(8, 1, 256), F.mse_loss, ADAM),
            lambda: Data(loader(*task(128)), loader(*task(128, seed=1), shuffle=False)),
            30,
            id="few samples",
        ),
        pytest.param(
            lambda: Program(mlp(8, 1), F.mse_loss, ADAM),
            lambda: regression(n=256),
            15,
            id="no validation",
        ),
    ],
)
def test_labels(module, data, epochs):
    assert not [a for a in alarms(fit(module, data(), epochs=epochs)) if "overfitting" not in a]


# -- splits ----------------------------------------------------------------------------------


class Generated(Dataset):
    """Every item is drawn when it is asked for."""

    def __len__(self):
        return 320

    def __getitem__(self, index):
        x = torch.randn(8)
        return x, x.sum(0, keepdim=True)


def halves():
    whole = TensorDataset(*pixels())
    train, val = random_split(whole, [0.75, 0.25], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=64)


def samplers():
    whole = TensorDataset(*pixels())
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(0)).tolist()
    return tuple(
        DataLoader(whole, batch_size=32, sampler=SubsetRandomSampler(part))
        for part in (order[:768], order[768:])
    )


def views():
    """Both are views of one tensor, which do not overlap."""
    x, y = pixels()
    return loader(x[:768], y[:768]), loader(x[768:], y[768:], shuffle=False)


def some_duplicates():
    """One row in a hundred is there twice, and a split does not know."""
    x, y = pixels()
    x, y = torch.cat([x, x[:10]]), torch.cat([y, y[:10]])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return loader(x[:768], y[:768]), loader(x[768:], y[768:], shuffle=False)


def folds():
    whole = TensorDataset(*pixels())
    parts = [Subset(whole, range(k, 1024, 4)) for k in range(4)]
    return DataLoader(ConcatDataset(parts[1:]), 32, shuffle=True), DataLoader(parts[0], 64)


def generated():
    return DataLoader(Generated(), 32), DataLoader(Generated(), 32)


def one_generator():
    dataset = Generated()
    return DataLoader(dataset, 32), DataLoader(dataset, 32)


def toys():
    x, y = xor()
    return loader(x, y), loader(x[:40], y[:40], shuffle=False)


def watched():
    """The second validation loader watches the training data."""
    train, val = halves()
    return train, [val, DataLoader(train.dataset, batch_size=64)]


class SeveralValidations(Validated):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return super().validation_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(lambda: Validated(mlp()), halves, id="random_split"),
        pytest.param(lambda: Validated(mlp()), samplers, id="samplers of one dataset"),
        pytest.param(lambda: Validated(mlp()), views, id="views of one tensor"),
        pytest.param(lambda: Validated(mlp()), some_duplicates, id="some duplicates"),
        pytest.param(lambda: Validated(mlp()), folds, id="folds"),
        pytest.param(lambda: Validated(mlp(8, 1), F.mse_loss, ADAM), generated, id="generated"),
        pytest.param(
            lambda: Validated(mlp(8, 1), F.mse_loss, ADAM), one_generator, id="one generator"
        ),
        pytest.param(lambda: Validated(mlp(2, 1), BCE, ADAM), toys, id="XOR"),
        pytest.param(lambda: SeveralValidations(mlp()), watched, id="training data watched too"),
    ],
)
def test_splits(module, data):
    assert alarms(fit(module, Data(*data()), epochs=3)) == []


class Words(Validated):
    """Three tokens of ten: most sequences come again."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Embedding(10, 16), nn.Flatten(), nn.Linear(48, 2)))


def test_short_sequences_come_again():
    ids = torch.randint(0, 10, (800, 3), generator=torch.Generator().manual_seed(0))
    y = (ids.sum(1) > 13).long()
    data = Data(loader(ids[:600], y[:600]), loader(ids[600:], y[600:], shuffle=False))
    assert alarms(fit(Words, data, epochs=3)) == []


def phrases():
    """Embedded messages: those of one class are often a usual phrase, with the same vector."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(1600, 16, generator=generator), torch.arange(1600) % 2
    frequency = 1.0 / torch.arange(1.0, 41.0)
    usual = torch.randn(40, 16, generator=generator) + 1.0
    drawn = torch.multinomial(frequency, 800, replacement=True, generator=generator)
    x[1::2] = usual[drawn]
    return x, y


def products():
    """Each sample is one of 60 products, by its measures, and whether a visitor has bought it."""
    generator = torch.Generator().manual_seed(0)
    measures = torch.randn(60, 16, generator=generator)
    rows = torch.randint(0, 60, (1600,), generator=generator)
    chance = torch.sigmoid(2.0 * measures[:, 0])[rows]
    return measures[rows], (torch.rand(1600, generator=generator) < chance).long()


def evenly_repeated():
    """Signals of a machine that is off are one of a few, by design; those of one that runs not."""
    x, y = phrases()
    x[1::2] = (torch.arange(800)[:, None] % 200 // torch.tensor([1, 2, 4, 8] * 4)) % 10 / 10.0
    x[::2] = (10.0 * x[::2]).round() / 10.0
    return x, y


def oversampled():
    """Copies of what is rare in both parts, each made after the split."""
    x, y = phrases()
    x = torch.randn(len(x), 16, generator=torch.Generator().manual_seed(1)) + y[:, None]
    rows = [torch.cat([part, *[part[y[part] == 1]] * 4]) for part in torch.arange(1600).split(1200)]
    return loader(x[rows[0]], y[rows[0]]), loader(x[rows[1]], y[rows[1]], shuffle=False)


def parted(data):
    x, y = data()
    return loader(x[:1200], y[:1200]), loader(x[1200:], y[1200:], shuffle=False)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(partial(parted, phrases), id="usual phrases"),
        pytest.param(partial(parted, products), id="products"),
        pytest.param(partial(parted, evenly_repeated), id="a few settings"),
        pytest.param(oversampled, id="oversampled after the split"),
    ],
)
def test_samples_come_again(data):
    run = fit(lambda: Validated(mlp(16, 2)), Data(*data()), epochs=3)
    assert "train-val-overlap" not in {f.name for f in run.findings}


@pytest.mark.parametrize("held", [24, 200])
def test_short_sequences_come_again_in_a_weighted_sampler(held):
    """What its epochs hold twice says nothing of nature; few validation samples say little."""
    ids = torch.randint(0, 10, (1000, 3), generator=torch.Generator().manual_seed(0))
    y = (ids.sum(1) > 13).long()
    sampler = WeightedRandomSampler(1.0 / torch.bincount(y[:800])[y[:800]], 800)
    train = loader(ids[:800], y[:800], shuffle=False, sampler=sampler)
    val = loader(ids[800 : 800 + held], y[800 : 800 + held], shuffle=False)
    assert alarms(fit(Words, Data(train, val), epochs=3)) == []


# -- workers ---------------------------------------------------------------------------------


class Noisy(Dataset):
    """Draws from numpy's global generator, which torch seeds in each worker."""

    def __len__(self):
        return 640

    def __getitem__(self, index):
        x = pixels()[0][index].numpy()
        return torch.from_numpy(x + np.random.normal(0, 0.3, 64).astype(np.float32)), pixels()[1][
            index
        ]


def test_workers_with_their_own_noise():
    data = DataLoader(Noisy(), batch_size=32, shuffle=True, num_workers=2)
    assert alarms(fit(lambda: Program(mlp()), data, epochs=1)) == []


class Endless(IterableDataset):
    """Each worker draws from all the data, in an order of its own."""

    def __iter__(self):
        x, y = pixels()
        for _ in range(640):
            index = int(torch.randint(len(x), ()))
            yield x[index], y[index]


class Shards(IterableDataset):
    """Each worker has every second window of a slow series: two at a time are all but equal."""

    def __iter__(self):
        info = get_worker_info()
        series = torch.cumsum(torch.randn(1300, generator=torch.Generator().manual_seed(0)), 0)
        windows = (series - series.mean()) / series.std()
        for start in range(info.id, 1200, info.num_workers):
            window = windows[start : start + 65]
            yield window[:64], window[64:]


class Repeated(IterableDataset):
    """The same few samples in each worker, again and again: for a first try, or a benchmark."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        x, y = pixels()
        for index in range(640):
            yield x[index % self.samples], y[index % self.samples]


class Twice(Sampler):
    """Each batch twice: the step draws two masks for it."""

    def __iter__(self):
        for rows in torch.randperm(640).view(20, 32):
            yield from [rows.tolist()] * 2

    def __len__(self):
        return 40


class Blanked(Program):
    """Blanks half of the pixels, others each time."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x * (torch.rand_like(x) < 0.5)), y)


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(Program, lambda: DataLoader(Endless(), 32, num_workers=2), id="endless"),
        pytest.param(
            Program, lambda: DataLoader(Repeated(32), 32, num_workers=2), id="one batch of data"
        ),
        pytest.param(
            Blanked,
            lambda: DataLoader(TensorDataset(*pixels()), batch_sampler=Twice(), num_workers=2),
            id="each batch twice",
        ),
    ],
)
def test_workers_with_the_same_samples_on_purpose(module, data):
    assert alarms(fit(lambda: module(mlp()), data(), epochs=1)) == []


def test_workers_with_parts_of_a_series():
    data = DataLoader(Shards(), batch_size=32, num_workers=2)
    assert alarms(fit(lambda: Program(mlp(outputs=1), F.mse_loss), data, epochs=1)) == []


class Nodes(Program):
    """One graph is the only batch: some of its nodes are trained on, and others validated."""

    def __init__(self):
        super().__init__(nn.Linear(16, 32), optimizer=partial(torch.optim.Adam, lr=0.01))
        self.head = nn.Linear(32, 3)

    def training_step(self, batch, batch_idx):
        x, links, y, known = batch
        return self.loss(self(x, links)[known], y[known])

    def forward(self, x, links):
        return self.head(links @ F.relu(links @ self.net(x)))

    def validation_step(self, batch, batch_idx):
        x, links, y, known = batch
        self.log("val_loss", self.loss(self(x, links)[~known], y[~known]))


def graph(nodes=240):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (nodes,), generator=generator)
    noise = 2.0 * torch.randn(nodes, 16, generator=generator)
    x = torch.randn(3, 16, generator=generator)[y] + noise
    likely = torch.where(y[:, None] == y, 0.05, 0.01)
    links = (torch.rand(nodes, nodes, generator=generator) < likely) | torch.eye(nodes).bool()
    links = links / links.sum(1, keepdim=True)
    return [(x, links, y, torch.rand(nodes, generator=generator) < 0.6)]


class Windows(Program):
    """The step cuts windows out of whole series: of the past to train, of the last to validate."""

    def __init__(self):
        net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
        super().__init__(net, F.mse_loss)

    def step(self, series):
        windows = series.unfold(1, 16, 1).flatten(0, 1)
        return self.loss(self(windows[:, :12]), windows[:, 12:])

    def training_step(self, batch, batch_idx):
        return self.step(batch[0][:, :-20])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch[0][:, -32:]))


def series():
    generator = torch.Generator().manual_seed(0)
    phase = 6.0 * torch.rand(64, 1, generator=generator)
    values = torch.sin(torch.arange(120) / 4.0 + phase)
    values = values + 0.1 * torch.randn(64, 120, generator=generator)
    return DataLoader(TensorDataset(values), batch_size=16, shuffle=True)


@pytest.mark.parametrize(
    ("program", "data", "epochs"),
    [
        pytest.param(Nodes, lambda: DataLoader(graph(), batch_size=None), 40, id="nodes"),
        pytest.param(Windows, series, 8, id="windows"),
    ],
)
def test_steps_that_pick_their_samples(program, data, epochs):
    assert alarms(fit(program, data(), validation=data(), epochs=epochs)) == []


class Labelled(torch.Tensor):
    """Keeps names beside its columns, and wants to be told them again."""

    def to(self, *args, **kwargs):
        made = super().to(*args, **kwargs)
        made.names = self.names
        return made

    def reshape(self, *shape):
        made = super().reshape(*shape)
        made.names = self.names[: made.shape[-1]]
        return made

    def clone(self, *args, **kwargs):
        made = super().clone(*args, **kwargs)
        made.names = self.names
        return made

    def square(self):
        made = super().square()
        made.names = self.names
        return made


class Named(Program):
    """What the step computes has a class of the user's own."""

    def training_step(self, batch, batch_idx):
        x, y = (t.as_subclass(Labelled) for t in batch)
        x.names, y.names = list("abcdefgh"), ["y"]
        difference = (self(x) - y).as_subclass(Labelled)
        difference.names = ["y"]
        return difference.square().mean().as_subclass(torch.Tensor)


class NamedData(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def labelled(samples):
    x, y = (torch.stack(values).as_subclass(Labelled) for values in zip(*samples, strict=True))
    x.names, y.names = list("abcdefgh"), ["y"]
    return x, y


def test_tensors_of_a_class_of_the_users_own():
    data = NamedData(regression(n=256).dataset)
    loader = DataLoader(data, batch_size=32, shuffle=True, collate_fn=labelled)
    net = partial(mlp, 8, 1)
    assert alarms(fit(lambda: Named(net(), F.mse_loss), loader)) == []
