"""Healthy training with several optimizers, and with losses that do not simply fall to zero."""

import copy
import itertools
import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression


def generator():
    return nn.Sequential(nn.Linear(16, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.Sigmoid())


def critic():
    return nn.Sequential(
        nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
    )


class Gan(pl.LightningModule):
    def __init__(self, *, toggle=True, n_critic=1, clamp=0.0, detach=True):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = generator(), critic()
        self.toggle, self.n_critic, self.clamp, self.detach = toggle, n_critic, clamp, detach

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g_optimizer, d_optimizer = self.optimizers()
        if self.toggle:
            self.toggle_optimizer(d_optimizer)
        fake = self.generator(torch.randn(len(real), 16))
        fake = fake.detach() if self.detach else fake
        d_loss = self.critic_loss(self.critic(real), self.critic(fake))
        d_optimizer.zero_grad()
        self.manual_backward(d_loss)
        d_optimizer.step()
        if self.toggle:
            self.untoggle_optimizer(d_optimizer)
        if self.clamp:
            for p in self.critic.parameters():
                p.data.clamp_(-self.clamp, self.clamp)
        if (batch_idx + 1) % self.n_critic == 0:
            if self.toggle:
                self.toggle_optimizer(g_optimizer)
            g_loss = self.generator_loss(self.critic(self.generator(torch.randn(len(real), 16))))
            g_optimizer.zero_grad()
            self.manual_backward(g_loss)
            g_optimizer.step()
            if self.toggle:
                self.untoggle_optimizer(g_optimizer)

    def critic_loss(self, real, fake):
        if self.clamp:
            return fake.mean() - real.mean()
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_loss(self, fake):
        return -fake.mean() if self.clamp else F.softplus(-fake).mean()

    def configure_optimizers(self):
        if self.clamp:
            return (
                optim.RMSprop(self.generator.parameters(), lr=5e-5),
                optim.RMSprop(self.critic.parameters(), lr=5e-5),
            )
        return (
            optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
            optim.Adam(self.critic.parameters(), lr=2e-4, betas=(0.5, 0.999)),
        )


class ActorCritic(pl.LightningModule):
    """A bandit on the digits: the reward is 1 for the right class."""

    def __init__(self, *, two=True):
        super().__init__()
        self.automatic_optimization = False
        self.two = two
        self.actor = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        self.value = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        policy = torch.distributions.Categorical(logits=self.actor(x))
        action = policy.sample()
        reward = (action == y).float()
        value = self.value(x)[:, 0]
        optimizers = self.optimizers() if self.two else [self.optimizers()]
        value_loss = F.mse_loss(value, reward)
        actor_loss = -(policy.log_prob(action) * (reward - value.detach())).mean()
        actor_loss = actor_loss - 0.01 * policy.entropy().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(actor_loss + value_loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        if self.two:
            return (
                optim.Adam(self.actor.parameters(), lr=1e-3),
                optim.Adam(self.value.parameters(), lr=3e-3),
            )
        return optim.Adam(self.parameters(), lr=1e-3)


class QLearning(pl.LightningModule):
    """A chain of states with a target network that is copied now and then."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
        self.target = copy.deepcopy(self.net)

    def training_step(self, batch, batch_idx):
        state = torch.randint(0, 9, (32,))
        action = torch.randint(0, 2, (32,))
        after = (state + 2 * action - 1).clamp(0, 9)
        reward = (after == 9).float()
        q = self.net(F.one_hot(state, 10).float()).gather(1, action[:, None])[:, 0]
        with torch.no_grad():
            best = self.target(F.one_hot(after, 10).float()).max(1).values
        if self.global_step % 25 == 0:
            self.target.load_state_dict(self.net.state_dict())
        return F.smooth_l1_loss(q, reward + 0.9 * best * (1 - reward))

    def configure_optimizers(self):
        return optim.Adam(self.net.parameters(), lr=1e-3)


class Vae(pl.LightningModule):
    def __init__(self, warm_up=100):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.warm_up = warm_up

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        reconstruction = F.mse_loss(self.decoder(z), x, reduction="none").sum(1).mean()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return reconstruction + min(1.0, self.global_step / self.warm_up) * divergence

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Contrastive(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        one = F.normalize(self.net(x + 0.1 * torch.randn_like(x)), dim=1)
        two = F.normalize(self.net(x + 0.1 * torch.randn_like(x)), dim=1)
        return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(x)))

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Diffusion(pl.LightningModule):
    """Predicts the noise; the last layer starts at zero."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(65, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64)
        )
        nn.init.zeros_(self.net[4].weight)

    def training_step(self, batch, batch_idx):
        x = 2 * batch[0] - 1
        t = torch.rand(len(x), 1)
        noise = torch.randn_like(x)
        noisy = (t * math.pi / 2).cos() * x + (t * math.pi / 2).sin() * noise
        return F.mse_loss(self.net(torch.cat([noisy, t], 1)), noise)

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=1e-3)


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -0.1 * gradient


class DomainAdaptation(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.head, self.domain = nn.Linear(64, 10), nn.Linear(64, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        domain = (torch.arange(len(x)) % 2).long()
        h = self.body(torch.where(domain[:, None] == 1, 1 - x, x))
        loss = F.cross_entropy(self.head(h), y)
        return loss + F.cross_entropy(self.domain(Reversal.apply(h)), domain)

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class Codebook(pl.LightningModule):
    """A VQ-VAE: straight-through gradients, codes that are never chosen."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
        self.codes = nn.Embedding(64, 8)
        nn.init.uniform_(self.codes.weight, -1 / 64, 1 / 64)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        z = self.encoder(x)
        codes = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        commitment = F.mse_loss(codes, z.detach()) + 0.25 * F.mse_loss(z, codes.detach())
        return F.mse_loss(self.decoder(z + (codes - z).detach()), x) + commitment

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(Gan, id="GAN"),
        pytest.param(partial(Gan, n_critic=3), id="GAN with more steps of the critic"),
        pytest.param(partial(Gan, toggle=False), id="GAN without toggling"),
        pytest.param(
            partial(Gan, toggle=False, detach=False), id="GAN without detaching the fakes"
        ),
        pytest.param(partial(Gan, n_critic=5, clamp=0.05), id="WGAN with clamped weights"),
        pytest.param(ActorCritic, id="actor-critic"),
        pytest.param(partial(ActorCritic, two=False), id="actor-critic with one optimizer"),
        pytest.param(QLearning, id="Q-learning"),
        pytest.param(Vae, id="VAE with a growing weight on the divergence"),
        pytest.param(Contrastive, id="contrastive"),
        pytest.param(Diffusion, id="diffusion"),
        pytest.param(DomainAdaptation, id="gradient reversal"),
        pytest.param(Codebook, id="codebook"),
    ],
)
def test_objectives(program):
    assert alarms(fit(program, digits(), epochs=6)) == []


def points(n=512, features=8, *, noise=0.0, batch=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, features, generator=generator)
    y = x.sum(1, keepdim=True) / features**0.5 + noise * torch.randn(n, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def hinge(prediction, target):
    return F.relu(1 - prediction * target.sign()).mean()


def separated(n=256):
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(n) % 2 * 2 - 1).float()[:, None]
    x = y + 0.1 * torch.randn(n, 8, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


def tanh_net():
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))


@pytest.mark.parametrize(
    ("net", "loss", "optimizer", "data"),
    [
        pytest.param(
            lambda: nn.Linear(8, 1), F.mse_loss, partial(optim.SGD, lr=0.1), points(), id="linear"
        ),
        pytest.param(
            lambda: nn.Linear(8, 1), F.mse_loss, partial(optim.Adam, lr=1e-2), points(), id="adam"
        ),
        pytest.param(
            tanh_net, F.mse_loss, partial(optim.Adam, lr=1e-2), points(n=32), id="to rounding"
        ),
    ],
)
def test_converged(net, loss, optimizer, data):
    steps = 1500
    run = fit(
        lambda: Program(net(), loss, optimizer), data, epochs=steps // len(data), max_steps=steps
    )
    assert alarms(run) == []


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(partial(optim.SGD, lr=0.1), id="sgd"),
        pytest.param(partial(optim.Adam, lr=1e-2), id="adam"),
    ],
)
def test_hinge_satisfied(optimizer):
    run = fit(lambda: Program(tanh_net(), hinge, optimizer), separated(), epochs=40)
    assert alarms(run) == []


class Product(nn.Module):
    """A deep linear product that rests near zero for a while before it takes off."""

    def __init__(self, std, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(depth))
        self.head = nn.Linear(8, 1)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=std)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


@pytest.mark.parametrize("std", [0.05, 0.1])
def test_escape_from_a_plateau(std):
    program = partial(Program, loss=F.mse_loss, optimizer=partial(optim.SGD, lr=0.1))
    assert alarms(fit(lambda: program(Product(std)), regression(), epochs=40)) == []


def autoencoder():
    sizes = [64, 48, 32, 16, 8, 16, 32, 48, 64]
    layers = []
    for one, two in itertools.pairwise(sizes):
        layers += [nn.Linear(one, two), nn.ELU()]
    return nn.Sequential(*layers[:-1])


class Denoising(Program):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(x + 0.1 * torch.randn_like(x)), x)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(partial(optim.Adam, lr=1e-3), id="adam"),
        pytest.param(partial(optim.SGD, lr=0.1, momentum=0.9), id="sgd"),
    ],
)
def test_deep_autoencoder(optimizer):
    run = fit(lambda: Denoising(autoencoder(), optimizer=optimizer), digits(), epochs=6)
    assert alarms(run) == []
