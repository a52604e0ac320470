"""Optimizers, decay and number formats that look odd and are as they should be."""

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from tests.runs import Program, alarms, digits, fit, regression, sequences

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Encoder(nn.Module):
    """A small transformer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.layer(self.table(ids)).mean(1))


class Rule(torch.optim.Optimizer):
    """What the optimizers below share: a step for each parameter."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, self.state[parameter], group)
        return loss


class Lion(Rule):
    """Sign descent with decay that is taken off the weights."""

    def __init__(self, parameters, lr=3e-4, weight_decay=1.0):
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    def move(self, parameter, state, group):
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_((0.9 * mean + 0.1 * parameter.grad).sign(), alpha=-group["lr"])
        mean.lerp_(parameter.grad, 0.01)


class Compensated(Rule):
    """Sign descent that keeps in a second tensor what rounding has taken away."""

    def __init__(self, parameters, lr=5e-6):
        super().__init__(parameters, {"lr": lr})

    def move(self, parameter, state, group):
        rest = state.setdefault("rest", torch.zeros_like(parameter))
        rest.add_(parameter.grad.sign(), alpha=-group["lr"])
        before = parameter.clone()
        parameter.add_(rest)
        rest.add_(before.sub_(parameter))


class Mastered(Rule):
    """Sign descent on a copy of the weights in 32 bits."""

    def __init__(self, parameters, lr=5e-6):
        super().__init__(parameters, {"lr": lr})

    def move(self, parameter, state, group):
        if "master" not in state:
            state["master"] = parameter.detach().float().clone()
        state["master"].add_(parameter.grad.float().sign(), alpha=-group["lr"])
        parameter.copy_(state["master"])


class Dithered(Rule):
    """Sign descent that rounds up or down at random."""

    def __init__(self, parameters, lr=5e-6):
        super().__init__(parameters, {"lr": lr})

    def move(self, parameter, state, group):
        wide = parameter.float() - group["lr"] * parameter.grad.float().sign()
        bits = wide.view(torch.int32)
        bits += torch.randint_like(bits, 0, 1 << 16)
        parameter.copy_((bits & -(1 << 16)).view(torch.float32))


class Adapter(Program):
    """LoRA in 32 bits on a frozen network of 16."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__(mlp().to(dtype).requires_grad_(False))
        self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 64, bias=False)
        nn.init.zeros_(self.up.weight)
        self.head, self.dtype_ = nn.Linear(64, 10), dtype

    def forward(self, x):
        hidden = self.net[0](x.to(self.dtype_)).float() + self.up(self.down(x))
        return self.head(hidden.relu())

    def configure_optimizers(self):
        return AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3)


class SparseTable(Program):
    """A table with sparse gradients, of 16 bits or 32."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 16, sparse=True))
        self.head = nn.Linear(16, 2)

    def forward(self, ids):
        return self.head(self.net(ids).mean(1))

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.5)


class Scheduled(Program):
    """A rate that rises from nearly nothing, and falls to it again."""

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 1e-2, total_steps=64, pct_start=0.3, div_factor=1e3
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Penalised(Program):
    """A penalty on weights or activations, with a weight that may be warmed up."""

    def __init__(self, penalty, weight=1e-4, warm_up=0, loss=F.cross_entropy):
        super().__init__(mlp(), loss)
        self.penalty, self.weight, self.warm_up = penalty, weight, warm_up

    def training_step(self, batch, batch_idx):
        weight = self.weight * min(1.0, self.global_step / max(1, self.warm_up))
        return super().training_step(batch, batch_idx) + weight * self.penalty(self)


def lasso(program):
    return sum(p.abs().sum() for name, p in program.named_parameters() if "weight" in name)


def orthogonality(program):
    matrices = [p for p in program.parameters() if p.ndim == 2]
    return sum((m @ m.T - torch.eye(len(m))).square().mean() for m in matrices)


class Contractive(Program):
    """A small penalty on what a hidden layer gives."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net[1](self.net[0](x))
        return F.cross_entropy(self.net[2](hidden), y) + 1e-3 * hidden.square().mean()


class SparseCode(Program):
    """An autoencoder whose code is to be sparse."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        code = self.net[1](self.net[0](x))
        out = nn.functional.linear(code, self.net[0].weight.T)
        return F.mse_loss(out, x) + 1e-3 * code.abs().sum(1).mean()


class Variational(Program):
    """A variational autoencoder with the usual weights."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
        self.to_mean, self.to_spread = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        hidden = self.net(x)
        mean, spread = self.to_mean(hidden), self.to_spread(hidden)
        out = self.decoder(mean + (0.5 * spread).exp() * torch.randn_like(mean))
        divergence = -0.5 * (1 + spread - mean.square() - spread.exp()).sum(1).mean()
        return F.mse_loss(out, x, reduction="sum") / len(x) + divergence


class Physics(Program):
    """A network that has to obey an equation, and a few measurements."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return F.mse_loss(out, y) + 10.0 * (slope[:, 2] - 0.3).square().mean()


class Pruned(Program):
    """Half of the weights are held at zero."""

    def __init__(self):
        super().__init__(mlp(), optimizer=partial(AdamW, lr=1e-3, weight_decay=0.1))
        for layer in (self.net[0], self.net[2]):
            prune.random_unstructured(layer, "weight", amount=0.5)


class MaxNorm(Program):
    """Rows of weights are kept at a length of at most 2."""

    def on_train_batch_end(self, *args):
        with torch.no_grad():
            for layer in (self.net[0], self.net[2]):
                layer.weight.copy_(torch.renorm(layer.weight, 2, 0, 2.0))


class Grokking(Program):
    """Large weights at first and heavy decay: it learns by heart, and simplifies later."""

    def __init__(self):
        super().__init__(mlp(), optimizer=partial(AdamW, lr=1e-3, weight_decay=1.0))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.mul_(3.0)


def spectral():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(64, 64)), nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(64, 10)),
    )  # fmt: skip


def by_hand(out, y):
    return -(out.log_softmax(1) * F.one_hot(y, 10)).sum(1).mean()


def nll(out, y):
    """A Gaussian likelihood written by hand."""
    return (0.5 * (out - y).square() + 0.5 * math.log(2 * math.pi)).mean()


def regressor():
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))


def trained(net, rule, loss=F.cross_entropy, **settings):
    return lambda: Program(net(), loss, partial(rule, **settings))


few = partial(digits, n=512)
images = partial(digits, n=512, flat=False)


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(trained(Encoder, AdamW, lr=1e-3, weight_decay=0.3), sequences, id="AdamW 0.3"),
        pytest.param(trained(cnn, AdamW, lr=1e-3, weight_decay=0.05), images, id="AdamW 0.05"),
        pytest.param(
            trained(cnn, Adam, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True),
            images,
            id="Adam with decoupled decay",
        ),
        pytest.param(trained(mlp, Lion), few, id="Lion with decay 1"),
        pytest.param(
            trained(cnn, SGD, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
            images,
            id="SGD as for ResNets",
        ),
        pytest.param(
            trained(mlp, SGD, by_hand, lr=0.1, weight_decay=1e-3), few, id="a loss by hand"
        ),
        pytest.param(
            trained(regressor, Adam, nll, lr=1e-3, weight_decay=1e-3), regression, id="likelihood"
        ),
        pytest.param(trained(mlp, AdamW, lr=1e-3, weight_decay=0.0), few, id="no decay"),
        pytest.param(trained(mlp, torch.optim.Adafactor, lr=1e-2), few, id="Adafactor"),
        pytest.param(trained(mlp, torch.optim.NAdam, lr=1e-3), few, id="NAdam"),
        pytest.param(lambda: Penalised(lasso), few, id="L1 by hand"),
        pytest.param(lambda: Penalised(lasso, 1e-3, warm_up=32), few, id="L1 with warm-up"),
        pytest.param(lambda: Penalised(orthogonality, 1e-2), few, id="orthogonality"),
        pytest.param(lambda: Contractive(mlp()), few, id="penalty on activations"),
        pytest.param(lambda: SparseCode(mlp()[:2]), few, id="sparse autoencoder"),
        pytest.param(Variational, few, id="variational autoencoder"),
        pytest.param(Physics, regression, id="equation in the loss"),
        pytest.param(Pruned, few, id="pruned"),
        pytest.param(lambda: MaxNorm(mlp()), few, id="max-norm"),
        pytest.param(Grokking, few, id="heavy decay from large weights"),
        pytest.param(
            trained(spectral, AdamW, lr=1e-3, weight_decay=0.1), few, id="spectral, weight norm"
        ),
    ],
)
def test_decay(program, data):
    assert alarms(fit(program, data())) == []


def scaler(start):
    found = torch.amp.GradScaler("cpu", init_scale=start)
    return {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=found)]}


def precision(name):
    return {"precision": name}


@pytest.mark.parametrize(
    ("program", "data", "settings"),
    [
        pytest.param(lambda: Program(mlp()), few, precision("bf16-mixed"), id="bf16-mixed"),
        pytest.param(lambda: Program(mlp()), few, precision("64-true"), id="64-true"),
        pytest.param(lambda: Program(cnn()), images, scaler(2.0**16), id="16-mixed"),
        pytest.param(lambda: Program(mlp()), few, scaler(2.0**24), id="16-mixed, a high start"),
        pytest.param(
            trained(cnn, AdamW, lr=3e-3), images, precision("bf16-true"), id="bf16-true CNN"
        ),
        pytest.param(
            trained(Encoder, AdamW, lr=1e-3), sequences, precision("bf16-true"), id="bf16-true"
        ),
        pytest.param(
            trained(mlp, SGD, lr=0.1, momentum=0.9), few, precision("bf16-true"), id="bf16 SGD"
        ),
        pytest.param(
            trained(mlp, Adam, lr=1e-3, eps=1e-4), few, precision("16-true"), id="16-true with eps"
        ),
        pytest.param(trained(mlp, SGD, lr=0.1), few, precision("16-true"), id="16-true SGD"),
        pytest.param(
            lambda: Scheduled(mlp()), digits, precision("bf16-true"), id="bf16-true, one cycle"
        ),
        pytest.param(trained(mlp, Compensated), few, precision("bf16-true"), id="Kahan summation"),
        pytest.param(trained(mlp, Mastered), few, precision("bf16-true"), id="weights in 32 bits"),
        pytest.param(trained(mlp, Dithered), few, precision("bf16-true"), id="random rounding"),
        pytest.param(Adapter, few, {}, id="LoRA on bfloat16"),
        pytest.param(lambda: Adapter(torch.float16), few, {}, id="LoRA on float16"),
        pytest.param(SparseTable, sequences, {}, id="sparse gradients"),
    ],
)
def test_precision(program, data, settings):
    assert alarms(fit(program, data(), **settings)) == []
