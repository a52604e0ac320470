"""Healthy sums of losses, penalties and weight decay."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression


def mlp(*sizes):
    layers = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Several(Program):
    """A class, the mean pixel and the left half from one trunk; the sum is up to a subclass."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
        self.classes, self.mean, self.left = nn.Linear(64, 10), nn.Linear(64, 1), nn.Linear(64, 32)
        self.seen = []

    def losses(self, batch):
        x, y = batch
        hidden = self.net(x)
        return (
            F.cross_entropy(self.classes(hidden), y),
            F.mse_loss(self.mean(hidden), x.mean(1, keepdim=True)),
            F.l1_loss(self.left(hidden), x[:, :32]),
        )

    def training_step(self, batch, batch_idx):
        return sum(self.losses(batch))


class Uncertainty(Several):
    """Weights learned with the tasks (Kendall et al.)."""

    def __init__(self):
        super().__init__()
        self.logs = nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        losses = torch.stack(self.losses(batch))
        return (torch.exp(-self.logs) * losses + self.logs).sum()


class OneByOne(Several):
    """Learned weights, one parameter a task, summed in a loop."""

    def __init__(self):
        super().__init__()
        self.logs = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(3)])

    def training_step(self, batch, batch_idx):
        total = torch.zeros(())
        for log, loss in zip(self.logs, self.losses(batch), strict=True):
            total = total + torch.exp(-log) * loss + log
        return total


class Balanced(Several):
    """Each loss over its own value: all terms are one."""

    def training_step(self, batch, batch_idx):
        return sum(loss / loss.detach() for loss in self.losses(batch))


class Matched(Several):
    """The auxiliary losses brought to the size of the main one by numbers."""

    def training_step(self, batch, batch_idx):
        main, *others = self.losses(batch)
        for other in others:
            main = main + other * (0.1 * main.item() / other.item())
        return main


class Small(Several):
    """Auxiliary losses with small weights, in place, and the sum logged as a number."""

    def training_step(self, batch, batch_idx):
        main, first, second = self.losses(batch)
        self.seen.append(main.item())
        loss = main.clone()
        loss += 1e-3 * first
        loss += 1e-4 * second
        self.log("total", loss.item())
        return loss + 0.0 * self.left.weight.sum()


class Offsets(Several):
    """Flooding, an offset, and a term that is on in some batches only."""

    def training_step(self, batch, batch_idx):
        main, first, second = self.losses(batch)
        loss = (main - 0.05).abs() + 0.05 - math.log(10)
        if batch_idx % 2:
            loss = loss + first
        return loss + (second if self.global_step > 3 else torch.zeros(()))


class Annealed(Several):
    """A margin that shrinks, with the losses read for the log before the sum."""

    def training_step(self, batch, batch_idx):
        main, first, second = self.losses(batch)
        self.seen.append(main.item())
        return main + first + F.relu(second + 0.1) - 0.1 * 0.99**self.global_step


class ValueOfAnother(Several):
    """Trains on one loss and reports another."""

    def training_step(self, batch, batch_idx):
        main, first, second = self.losses(batch)
        return main + first + (second - first).detach() + second


class Penalised(Program):
    """A penalty on all parameters, some of which are frozen."""

    def __init__(self, weight, power=2, frozen=False):
        super().__init__(mlp(64, 64, 64, 10))
        self.weight, self.power = weight, power
        if frozen:
            self.net[0].requires_grad_(False)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for parameter in self.parameters():
            loss = loss + self.weight * parameter.abs().pow(self.power).sum()
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=2e-3)


class Elastic(Program):
    """Weights held near those of an earlier task."""

    def __init__(self):
        super().__init__(mlp(64, 64, 10))
        for i, parameter in enumerate(self.net.parameters()):
            self.register_buffer(f"before_{i}", parameter.detach().clone())

    def training_step(self, batch, batch_idx):
        held = [
            (parameter - getattr(self, f"before_{i}")).square().sum()
            for i, parameter in enumerate(self.net.parameters())
        ]
        return super().training_step(batch, batch_idx) + 0.1 * torch.stack(held).sum()


class Orthogonal(Program):
    """Rows of a weight matrix kept at right angles."""

    def training_step(self, batch, batch_idx):
        weight = self.net[0].weight
        gram = weight.T @ weight - torch.eye(weight.shape[1])
        return super().training_step(batch, batch_idx) + 1e-3 * gram.square().sum()


class Physics(Program):
    """u'' = -sin(x) with u(0) = u(pi) = 0: residuals and a heavily weighted boundary."""

    def __init__(self):
        super().__init__(
            nn.Sequential(
                nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
            )
        )

    def training_step(self, batch, batch_idx):
        x = (batch[0][:, :1].sigmoid() * math.pi).requires_grad_()
        u = self.net(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        ends = self.net(torch.tensor([[0.0], [math.pi]]))
        return (ddu + torch.sin(x)).pow(2).mean() + 100.0 * ends.pow(2).mean()


class Warmed(Program):
    """A variational autoencoder, pixels summed, with a KL weight that grows from 0."""

    def __init__(self, beta=None):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.beta = beta

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, log_variance = self.net(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        pixels = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") / len(x)
        kl = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(1).mean()
        beta = min(1.0, self.global_step / 40) if self.beta is None else self.beta
        return pixels + beta * kl


def frozen(*sizes):
    net = nn.Sequential(nn.Linear(sizes[0], 32), nn.Tanh(), nn.Linear(32, sizes[-1]))
    return net.requires_grad_(False)


class Distilled(Program):
    """The divergence from a teacher, as its entropy and a cross entropy."""

    def __init__(self, temperature=3.0):
        super().__init__(mlp(64, 32, 10))
        self.teacher, self.temperature = frozen(64, 64, 10), temperature

    def training_step(self, batch, batch_idx):
        x, y = batch
        soft = (self.teacher(x) / self.temperature).softmax(1)
        logits = self(x)
        log_soft = (logits / self.temperature).log_softmax(1)
        entropy = (soft * soft.log()).sum(1).mean()
        return F.cross_entropy(logits, y) + 9 * (entropy - (soft * log_soft).sum(1).mean())


class Codes(Program):
    """An auto-decoder: codes of the samples lie outside the model, and a fixed prior rates them."""

    def __init__(self, by_hand):
        super().__init__(mlp(8, 64, 64))
        self.prior = frozen(8, 1)
        self.codes = (0.1 * torch.randn(1024, 8)).requires_grad_()
        self.by_hand = by_hand

    def training_step(self, batch, batch_idx):
        x, rows = batch
        codes = self.codes[rows]
        return F.mse_loss(self.net(codes), x) + 0.01 * F.softplus(self.prior(codes)).mean()

    def on_after_backward(self):
        if self.by_hand:
            with torch.no_grad():
                self.codes -= 0.1 * self.codes.grad
            self.codes.grad = None

    def configure_optimizers(self):
        outside = [] if self.by_hand else [self.codes]
        return torch.optim.Adam([*self.net.parameters(), *outside], lr=1e-3)


class Perturbed(Program):
    """Trained on a change of the inputs that a fixed critic of changes holds back, step by step."""

    def __init__(self):
        super().__init__(mlp(64, 64, 10))
        self.critic = frozen(64, 1)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        change = torch.zeros_like(x).requires_grad_()
        for _ in range(2):
            optimizer.zero_grad()
            held_back = self.critic(x + change).square().mean()
            self.manual_backward(F.cross_entropy(self.net(x + change), y) + held_back)
            with torch.no_grad():
                change += 0.01 * change.grad.sign()
            change.grad = None
            optimizer.step()


class Attacked(Program):
    """Trained on inputs that were moved along the gradient of the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.requires_grad_()
        clean = self.loss(self.net(x), y)
        (slope,) = torch.autograd.grad(clean, x, retain_graph=True)
        return clean + self.loss(self.net(x + 0.01 * slope.sign()), y)


class Checkpointed(Program):
    """An auxiliary head whose activations are made again in backward; it wants inputs with one."""

    def __init__(self):
        super().__init__(mlp(64, 64, 10))
        self.side = mlp(64, 32, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.requires_grad_()
        side = checkpoint(self.side, x, use_reentrant=True)
        return self.loss(self.net(x), y) + 0.3 * self.loss(side, y)


class WithPrior(Program):
    """A density of the data with their fixed share of the bound, and a slope that is penalised."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.requires_grad_()
        loss = self.loss(self.net(x), y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + slope.square().sum() + 0.5 * (0.1 * x).square().sum(1).mean()


def numbered():
    x, _ = digits().dataset.tensors
    return DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(lambda: Codes(by_hand=False), numbered, id="codes of the optimizer's own"),
        pytest.param(lambda: Codes(by_hand=True), numbered, id="codes that a hook moves"),
        pytest.param(Perturbed, digits, id="inputs that are optimised"),
        pytest.param(lambda: Attacked(mlp(64, 64, 10)), digits, id="adversarial inputs"),
        pytest.param(Checkpointed, digits, id="reentrant checkpoint"),
        pytest.param(lambda: WithPrior(mlp(64, 64, 10)), digits, id="constant of the data"),
    ],
)
def test_gradients_that_go_to_inputs(module, data):
    assert alarms(fit(module, data())) == []


SUMS = [Several, Uncertainty, OneByOne, Balanced, Matched, Small, Offsets, Annealed, ValueOfAnother]


@pytest.mark.parametrize("module", SUMS)
def test_sums(module):
    assert alarms(fit(module, digits())) == []


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Distilled, id="entropy of a teacher"),
        pytest.param(lambda: Penalised(1e-4), id="L2"),
        pytest.param(lambda: Penalised(1e-5, 1), id="L1"),
        pytest.param(lambda: Penalised(1e-4, frozen=True), id="of frozen weights too"),
        pytest.param(Elastic, id="elastic weight consolidation"),
        pytest.param(lambda: Orthogonal(mlp(64, 64, 10)), id="orthogonal rows"),
        pytest.param(Warmed, id="KL warm-up"),
        pytest.param(lambda: Warmed(4.0), id="beta-VAE"),
    ],
)
def test_penalties(module):
    assert alarms(fit(module, digits())) == []


def test_physics():
    assert alarms(fit(Physics, regression())) == []


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(
            partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), id="SGD as usual"
        ),
        pytest.param(partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1), id="AdamW with 0.1"),
        pytest.param(partial(torch.optim.AdamW, lr=1e-3, weight_decay=1.0), id="AdamW with 1"),
        pytest.param(partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-3), id="Adam with 0.001"),
    ],
)
def test_weight_decay(optimizer):
    assert alarms(fit(lambda: Program(mlp(64, 64, 10), optimizer=optimizer), digits())) == []


def test_weight_decay_of_a_converged_model():
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
    program = lambda: Program(mlp(64, 64, 10), optimizer=optimizer)  # noqa: E731
    assert alarms(fit(program, digits(n=256), epochs=20)) == []
