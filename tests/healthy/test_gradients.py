"""Gradients that are not the derivative, on purpose, and steps that are hard to repeat."""

import copy
import functools
import random
import threading

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.runs import Program, alarms, digits, fit, regression, sequences


class Reversed(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -0.1 * gradient


class Binary(Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class ScaledBinary(Binary):
    @staticmethod
    def forward(ctx, x):
        return x.sign() * x.abs().mean(1, keepdim=True)


class EightBits(Binary):
    @staticmethod
    def forward(ctx, x):
        scale = x.abs().max() / 127
        return (x / scale).round() * scale


class OpenClamp(Binary):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(-0.5, 0.5)


class Spike(Function):
    """A spiking unit with a surrogate gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / (1 + 5 * x.abs()) ** 2


class Right(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return torch.tanh(scale * x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * ctx.scale * (1 - torch.tanh(ctx.scale * x) ** 2), None


class Applied(nn.Module):
    def __init__(self, function, *more):
        super().__init__()
        self.function, self.more = function, more

    def forward(self, x):
        return self.function.apply(x, *self.more)


def between(*middle):
    return Program(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), *middle, nn.Linear(32, 10)))


@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(lambda: [Applied(Binary)], id="sign"),
        pytest.param(lambda: [Applied(ScaledBinary)], id="scaled sign"),
        pytest.param(lambda: [Applied(EightBits)], id="8 bits, dynamic scale"),
        pytest.param(lambda: [Applied(OpenClamp)], id="clamp that lets gradients pass"),
        pytest.param(lambda: [Applied(Spike)], id="spikes"),
        pytest.param(lambda: [Applied(Right, 0.7)], id="right"),
    ],
)
def test_functions(middle):
    assert alarms(fit(lambda: between(*middle()), digits(), epochs=1)) == []


class Adversary(pl.LightningModule):
    """Features that tell the class, and through reversed gradients not the domain."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.head, self.domain = nn.Linear(32, 10), nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.features(x)
        domain = self.domain(Reversed.apply(h))
        return F.cross_entropy(self.head(h), y) + F.cross_entropy(domain, y % 2)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Codebook(Program):
    """VQ: the nearest code, a straight-through gradient, and two stop-gradients."""

    def __init__(self):
        super().__init__(nn.Linear(64, 16))
        self.codes, self.head = nn.Embedding(32, 16), nn.Linear(16, 10)
        nn.init.normal_(self.codes.weight, std=0.3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return F.cross_entropy(self.head(z + (q - z).detach()), y) + loss


class Teacher(Program):
    """BYOL: a predictor, a teacher that follows in the training step, no gradient into it."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU()))
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.mul_(0.99).add_(fast, alpha=0.01)
            target = self.teacher(x + 0.1 * torch.randn_like(x))
        prediction = self.predictor(self.net(x + 0.1 * torch.randn_like(x)))
        return 2 - 2 * F.cosine_similarity(prediction, target, dim=1).mean()


class Weighed(Program):
    """The terms of the loss are weighed by numbers read off them."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        first, second = F.cross_entropy(out, y), 0.01 * out.square().mean()
        return first + second * (first.item() / (second.item() + 1e-8)) * 0.01


class Equilibrium(nn.Module):
    """A fixed point found without a graph; its gradient is solved for in a hook."""

    def __init__(self):
        super().__init__()
        self.read, self.inner = nn.Linear(64, 32), nn.Linear(32, 32)
        with torch.no_grad():
            self.inner.weight.mul_(0.5)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        given = self.read(x)
        with torch.no_grad():
            z = torch.zeros_like(given)
            for _ in range(20):
                z = torch.tanh(self.inner(z) + given)
        z = torch.tanh(self.inner(z) + given)
        if z.requires_grad:
            start = z.clone().detach().requires_grad_()
            again = torch.tanh(self.inner(start) + given)

            def solve(gradient):
                solved = gradient
                for _ in range(20):
                    solved = (
                        torch.autograd.grad(again, start, solved, retain_graph=True)[0] + gradient
                    )
                return solved

            z.register_hook(solve)
        return self.head(z)


class Penalised(Program):
    """A gradient penalty: a derivative of a derivative."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.clone().requires_grad_()
        score = self(x)
        (slope,) = torch.autograd.grad(score.square().sum(), x, create_graph=True)
        return F.cross_entropy(score, y) + 1e-3 * slope.square().sum(1).mean()


class WrittenOver(nn.Module):
    """Binary activations, written over the real ones: the gradient passes straight through."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first, self.norm = nn.Linear(64, 32), nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        h = self.norm(self.first(x)).tanh() * 1.0
        if self.how == "set":
            h.data = h.data.sign()
        elif self.how == "alias":
            h.data.sign_()
        else:
            with torch.no_grad():
                h.copy_(h.sign())
        return self.head(h)


class Recomputed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.block = nn.Sequential(nn.Tanh(), nn.Linear(32, 32), nn.Dropout(0.2), nn.Tanh())

    def forward(self, x):
        return self.head(checkpoint(self.block, self.first(x), use_reentrant=self.reentrant))


class Turns(pl.LightningModule):
    """Freezes by hand whatever does not have its turn, and leaves it so."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64))
        self.judge = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        first, second = self.optimizers()
        made = self.maker(torch.randn(len(x), 16))
        one = torch.ones(len(x), 1)
        self.judge.requires_grad_(True)
        real = F.binary_cross_entropy_with_logits(self.judge(x), one)
        fake = F.binary_cross_entropy_with_logits(self.judge(made.detach()), 0 * one)
        second.zero_grad()
        self.manual_backward(real + fake)
        second.step()
        self.judge.requires_grad_(False)
        first.zero_grad()
        self.manual_backward(F.binary_cross_entropy_with_logits(self.judge(made), one))
        first.step()

    def configure_optimizers(self):
        adam = functools.partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
        return adam(self.maker.parameters()), adam(self.judge.parameters())


class Frozen(pl.LightningModule):
    """An actor and its critic in one loss; the critic is frozen while the actor is judged."""

    def __init__(self, critic):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4), nn.Tanh())
        self.critic, self.value = critic, nn.Linear(32, 1)

    def judged(self, x, action):
        out = self.critic(torch.cat([x, action], dim=1)[:, None].repeat(1, 2, 1))
        return self.value(out[0] if isinstance(out, tuple) else out).mean(dim=1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        action = F.one_hot(y % 4, 4).float() + 0.1 * torch.randn(len(x), 4)
        reward = 1.0 - (action - F.one_hot(y % 4, 4)).abs().sum(1, keepdim=True)
        error = F.mse_loss(self.judged(x, action), reward)
        parts = [*self.critic.parameters(), *self.value.parameters()]
        for p in parts:
            p.requires_grad = False
        gain = self.judged(x, self.actor(x)).mean()
        for p in parts:
            p.requires_grad_(True)
        return error - gain

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Clipped(Program):
    """The weights are clipped at the start of each step, as a Wasserstein critic's are."""

    def training_step(self, batch, batch_idx):
        for p in self.parameters():
            p.data.clamp_(-0.2, 0.2)
        return super().training_step(batch, batch_idx)


class Remembering(Program):
    """Keeps a queue, a centre and a count, and takes them into the loss."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
        self.register_buffer("centre", torch.zeros(10))
        self.queue, self.seen = [], 0
        self.lock = threading.Lock()
        self.stream = iter(range(10**9))
        self.generator = torch.Generator().manual_seed(1)
        self.numeric, self.plain = np.random.default_rng(2), random.Random(3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        with self.lock:
            self.seen += 1
        noise = torch.randn(x.shape, generator=self.generator) * self.plain.random()
        out = self(x + 0.05 * noise + 0.01 * float(self.numeric.normal()))
        self.last = F.cross_entropy(out - 0.01 * self.centre, y)
        with torch.no_grad():
            self.centre.mul_(0.9).add_(0.1 * out.mean(0))
        self.queue = [*self.queue[-3:], out.detach()]
        self.log("seen", float(self.seen + next(self.stream)))
        rate = self.optimizers().param_groups[0]["lr"]
        return self.last * (1 + 0 * rate * self.trainer.current_epoch)


class Narrow(Program):
    """Numbers are brought to float32 in the step, through numpy as well."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = torch.from_numpy(x.float().numpy().astype(np.float32) * 1.0).to(torch.float32)
        mask = torch.ones(x.shape, dtype=torch.float32)
        return F.cross_entropy(self.net(x * mask).float(), y.long())


def plain(*middle):
    return nn.Sequential(nn.Linear(64, 32), *(middle or (nn.ReLU(),)), nn.Linear(32, 10))


def spectral():
    first = parametrizations.spectral_norm(nn.Linear(64, 32))
    return nn.Sequential(first, nn.ReLU(), parametrizations.weight_norm(nn.Linear(32, 10)))


@pytest.mark.parametrize(
    "program",
    [
        Adversary,
        Turns,
        lambda: Frozen(nn.Sequential(nn.Linear(68, 32), nn.ReLU())),
        lambda: Frozen(nn.GRU(68, 32, batch_first=True)),
        Codebook,
        Teacher,
        lambda: Weighed(plain()),
        lambda: Program(Equilibrium()),
        lambda: Penalised(plain(nn.Tanh())),
        lambda: Program(WrittenOver("set")),
        lambda: Program(WrittenOver("alias")),
        lambda: Program(WrittenOver("copy")),
        lambda: Program(Recomputed(reentrant=True)),
        lambda: Program(Recomputed(reentrant=False)),
        lambda: Clipped(plain()),
        Remembering,
        lambda: Narrow(plain()),
        lambda: Program(spectral()),
        lambda: Program(plain(nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5))),
    ],
)
def test_steps(program):
    assert alarms(fit(program, digits(), epochs=1)) == []


class Words(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.table = nn.Embedding(20, 16, **settings)
        self.rnn, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0].mean(1))


@pytest.mark.parametrize("settings", [{"max_norm": 1.0}, {"padding_idx": 1}, {"sparse": True}])
def test_tables(settings):
    def program():
        return Program(Words(**settings), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))

    assert alarms(fit(program, sequences(), epochs=1)) == []


def test_a_loss_with_a_kink():
    def program():
        net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
        return Program(net, F.l1_loss)

    assert alarms(fit(program, regression(), epochs=1)) == []
