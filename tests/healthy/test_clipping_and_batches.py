"""Programs that clip, do not clip, and take large and small batches, for good reasons."""

import functools

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, names, regression, sequences

SGD = functools.partial(optim.SGD, lr=0.1, momentum=0.9)


def mlp(inputs=64, outputs=10):
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


class Tagger(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0].mean(1))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.places = nn.Embedding(20, 32), nn.Parameter(0.1 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.layers(self.table(ids) + self.places).mean(1))


def scaler():
    return [
        MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    ]


@pytest.mark.parametrize(
    ("module", "data", "settings"),
    [
        pytest.param(
            lambda: Program(mlp(), optimizer=SGD),
            digits,
            {"gradient_clip_val": 0.5},
            id="acts on some steps",
        ),
        pytest.param(
            lambda: Program(Tagger(), optimizer=functools.partial(SGD, lr=0.5)),
            sequences,
            {"gradient_clip_val": 0.25},
            id="lstm, acts on most",
        ),
        pytest.param(
            lambda: Program(Tagger(nn.RNN), optimizer=functools.partial(SGD, momentum=0.0)),
            sequences,
            {"gradient_clip_val": 1.0},
            id="rnn",
        ),
        pytest.param(
            lambda: Program(Attentive()), sequences, {"gradient_clip_val": 0.1}, id="transformer"
        ),
        pytest.param(
            lambda: Program(
                mlp(), lambda p, y: F.cross_entropy(50 * p, y), functools.partial(SGD, lr=0.01)
            ),
            digits,
            {"gradient_clip_val": 1.0},
            id="large gradients at the start",
        ),
        pytest.param(
            lambda: Program(
                mlp(8, 1),
                lambda p, y: 100 * F.mse_loss(p, y),
                functools.partial(SGD, lr=0.02, momentum=0.0),
            ),
            regression,
            {"gradient_clip_val": 1.0},
            id="a learning rate that goes with it",
        ),
        pytest.param(
            lambda: Program(mlp(), optimizer=SGD),
            digits,
            {"gradient_clip_val": 0.5, "plugins": scaler()},
            id="unscaled by lightning",
        ),
        pytest.param(
            lambda: Program(mlp(), optimizer=SGD),
            digits,
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
            id="by value",
        ),
        pytest.param(
            lambda: Program(mlp(), optimizer=SGD),
            digits,
            {"gradient_clip_val": 1.0, "accumulate_grad_batches": 4},
            id="accumulation",
        ),
    ],
)
def test_clipping_that_helps(module, data, settings):
    suite = fit(module, data(), **settings)
    assert alarms(suite) == []


def test_closures():
    lbfgs = functools.partial(optim.LBFGS, lr=0.1, max_iter=4)
    data = digits(n=256, batch=256)
    assert alarms(fit(lambda: Program(mlp(), optimizer=lbfgs), data)) == []


def test_a_tight_limit_does_nothing_to_adam():
    suite = fit(lambda: Program(mlp()), digits(), gradient_clip_val=0.01)
    assert alarms(suite) == []
    [finding] = [f for f in suite.findings if f.name == "clipping-too-tight"]
    assert finding.severity is Severity.INFO


class ByHand(Program):
    """Manual optimization with something done to the gradients before the step."""

    def __init__(self, change, *args, **options):
        super().__init__(*args, **options)
        self.automatic_optimization = False
        self.change = change

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        self.change(list(self.parameters()))
        optimizer.step()
        return loss


def divided(parameters):
    for parameter in parameters:
        parameter.grad /= 32.0


def clamped(parameters):
    for parameter in parameters:
        parameter.grad.data.clamp_(-1.0, 1.0)


def adaptive(parameters):
    for parameter in parameters:
        limit = 0.02 * parameter.detach().norm().clamp_min(1e-3)
        parameter.grad.mul_((limit / parameter.grad.norm().clamp_min(1e-6)).clamp(max=1.0))


def each_layer(parameters):
    for parameter in parameters:
        nn.utils.clip_grad_norm_([parameter], 0.1)


def normalised(parameters):
    nn.utils.clip_grad_norm_(parameters, 1e-3)
    for parameter in parameters:
        parameter.grad.mul_(300.0)


@pytest.mark.parametrize("change", [divided, clamped, adaptive, each_layer, normalised])
def test_gradients_that_are_changed_by_hand(change):
    summed = functools.partial(F.cross_entropy, reduction="sum" if change is divided else "mean")
    suite = fit(lambda: ByHand(change, mlp(), summed, SGD), digits())
    assert "clipping-too-tight" not in names(suite)
    assert alarms(suite) == []


class Private(Program):
    """Clips the gradient of each sample, and adds noise (differentially private training)."""

    def __init__(self):
        super().__init__(mlp(), optimizer=functools.partial(optim.SGD, lr=1.0))
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        sums = [torch.zeros_like(p) for p in self.parameters()]
        for i in range(len(x)):
            optimizer.zero_grad()
            loss = self.loss(self(x[i : i + 1]), y[i : i + 1])
            self.manual_backward(loss)
            nn.utils.clip_grad_norm_(self.parameters(), 0.3)
            for total, parameter in zip(sums, self.parameters(), strict=True):
                total += parameter.grad
        for total, parameter in zip(sums, self.parameters(), strict=True):
            parameter.grad = (total + 0.02 * torch.randn_like(total)) / len(x)
        optimizer.step()
        return loss.detach()


def test_private_training():
    suite = fit(Private, digits(n=256, batch=8), epochs=1)
    assert "clipping-too-tight" not in names(suite)


def outliers(*, every=150, size=60.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 8, generator=generator)
    y = (x[:, :2].prod(1, keepdim=True) + x.sum(1, keepdim=True)) / 3
    y[7::every] *= size
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        pytest.param(functools.partial(optim.Adam, lr=1e-2), F.mse_loss, id="adam"),
        pytest.param(functools.partial(optim.SGD, lr=0.03), F.smooth_l1_loss, id="robust loss"),
        pytest.param(functools.partial(optim.SGD, lr=1e-3), F.mse_loss, id="small steps"),
    ],
)
def test_spikes_that_do_no_harm(optimizer, loss):
    suite = fit(lambda: Program(mlp(8, 1), loss, optimizer), outliers(), epochs=4)
    assert "clipping-missing" not in names(suite)


class Curriculum(Program):
    """Its tasks become harder in stages."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        scale = 2.0 ** (self.global_step // 20)
        return F.mse_loss(self(x), scale * y)


class Policy(pl.LightningModule):
    """A policy gradient on a bandit, with rare large rewards."""

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 4)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        choice = torch.distributions.Categorical(logits=self.net(x))
        action = choice.sample()
        reward = (action == (x[:, 0] > 0).long()).float() + 20.0 * (x[:, 1] > 2.2).float()
        return -(choice.log_prob(action) * (reward - reward.mean())).mean()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=3e-3)


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        pytest.param(
            lambda: Curriculum(mlp(8, 1), optimizer=functools.partial(optim.SGD, lr=0.02)),
            {},
            id="curriculum",
        ),
        pytest.param(Policy, {}, id="policy"),
        pytest.param(Policy, {"gradient_clip_val": 0.5}, id="policy, clipped"),
    ],
)
def test_spikes_that_belong_there(module, settings):
    suite = fit(module, regression(), epochs=6, **settings)
    assert "clipping-missing" not in names(suite)
    assert "clipping-too-tight" not in names(suite)


class Graph(Program):
    """Labels a few nodes of one graph, which is all the data: full batches."""

    def __init__(self):
        super().__init__(mlp(16, 3), optimizer=functools.partial(optim.Adam, lr=1e-2))
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("edges", (torch.rand(200, 200, generator=generator) < 0.05).float())

    def training_step(self, batch, batch_idx):
        x, y = batch
        links = self.edges[: len(x), : len(x)] + torch.eye(len(x))
        out = self.net(links @ x / links.sum(1, keepdim=True))
        return F.cross_entropy(out[:60], y[:60])


def nodes():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 3
    x = torch.randn(200, 16, generator=generator) + F.one_hot(y, 16)
    return DataLoader(TensorDataset(x, y), batch_size=200)


class Residual(Program):
    """Solves a differential equation at all points at once."""

    def __init__(self):
        net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
        super().__init__(net, optimizer=functools.partial(optim.Adam, lr=1e-2))

    def training_step(self, batch, batch_idx):
        t = batch[0].requires_grad_(True)
        u = 1.0 + t * self.net(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return (slope + u).square().mean()


def points():
    return DataLoader(TensorDataset(torch.linspace(0, 2, 512).unsqueeze(1)), batch_size=512)


@pytest.mark.parametrize(
    ("module", "data", "settings"),
    [
        pytest.param(Graph, nodes, {"epochs": 40}, id="graph"),
        pytest.param(Residual, points, {"epochs": 110}, id="differential equation"),
        pytest.param(
            lambda: Program(mlp(), optimizer=functools.partial(optim.LBFGS, lr=0.5)),
            lambda: digits(batch=1024),
            {"epochs": 6},
            id="lbfgs",
        ),
        pytest.param(
            lambda: Program(mlp()),
            lambda: digits(batch=512),
            {"epochs": 20, "overfit_batches": 1},
            id="overfitting one batch",
        ),
        pytest.param(
            lambda: Program(mlp(), optimizer=functools.partial(optim.Adam, lr=2e-2)),
            lambda: digits(batch=1024),
            {"epochs": 40},
            id="a large batch that learns",
        ),
        pytest.param(
            lambda: Program(mlp()), lambda: digits(batch=512), {"epochs": 2}, id="a first try"
        ),
        pytest.param(
            lambda: Program(mlp(), optimizer=functools.partial(optim.SGD, lr=0.01)),
            lambda: digits(n=256, batch=1),
            {"epochs": 1},
            id="one sample, small steps",
        ),
        pytest.param(
            lambda: Program(mlp(8, 1), F.mse_loss, functools.partial(optim.SGD, lr=0.02)),
            lambda: regression(n=400, batch=1),
            {"epochs": 2},
            id="one sample, as good as it gets",
        ),
        pytest.param(
            lambda: Program(mlp(), optimizer=SGD),
            lambda: digits(batch=2),
            {"epochs": 1, "accumulate_grad_batches": 16},
            id="two samples, accumulated",
        ),
    ],
)
def test_batches_of_that_size(module, data, settings):
    suite = fit(module, data(), **settings)
    wrong = {"batch-size-too-small", "batch-size-too-large", "clipping-missing"}
    assert not wrong & names(suite), alarms(suite)
