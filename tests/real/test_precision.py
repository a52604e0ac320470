"""Every precision: silent and without a trace on healthy training, and not blind to bugs."""

import itertools
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug import Severity
from tests.real.networks import Encoder, cnn, few, images, mlp, sentences
from tests.real.twin_runs import watched
from tests.runs import Program, alarms, digits, fit, names, regression

Adam, SGD = torch.optim.Adam, torch.optim.SGD


def scaled(start=2.0**16, interval=2000):
    """Return 16-mixed on the processor; from a high start, steps are refused at first."""
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=interval)
    return {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


MODES = {
    "32-true": lambda: {"precision": "32-true"},
    "64-true": lambda: {"precision": "64-true"},
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "16-true": lambda: {"precision": "16-true"},
    "16-mixed": scaled,
    "16-mixed, refused and grown": lambda: scaled(2.0**22, 4),
}
NETS = {"MLP": (mlp, few), "CNN": (cnn, images), "transformer": (Encoder, sentences)}
QUICK = {
    *((mode, "MLP") for mode in MODES),
    *[("bf16-true", "CNN"), ("16-mixed, refused and grown", "CNN"), ("bf16-mixed", "transformer")],
}


def program(net, loss=F.cross_entropy, rule=Adam, **settings):
    # 1e-8 is 0 in float16.
    settings = {"lr": 1e-3} | ({"eps": 1e-4} if rule is Adam else {}) | settings
    return lambda: Program(net(), loss, partial(rule, **settings))


@pytest.mark.parametrize(
    ("mode", "net"),
    [
        pytest.param(mode, net, marks=() if (mode, net) in QUICK else pytest.mark.slow)
        for mode in MODES
        for net in NETS
    ],
)
def test_healthy(mode, net):
    build, data = NETS[net]
    assert alarms(watched(program(build), data, settings=MODES[mode])) == []


def test_the_scaler_has_refused_steps_and_grown():
    scales, steps = [], []

    class Scales(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            scales.append(trainer.precision_plugin.scaler.get_scale())
            steps.append(len(trainer.optimizers[0].state))

    settings = MODES["16-mixed, refused and grown"]()
    found = fit(program(cnn), images(), callbacks=(Scales(),), **settings)
    assert alarms(found) == []
    assert steps[0] == 0 < steps[-1]
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))


class Autocast(Program):
    """Autocast by hand."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(self(x), y)


class ByHand(Program):
    """Autocast, scaling, unscaling and clipping by hand."""

    def __init__(self, net):
        super().__init__(net)
        self.automatic_optimization = False
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=6)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers().optimizer
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(self(x), y)
        self.manual_backward(self.scaler.scale(loss))
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.scaler.step(optimizer)
        self.scaler.update()


class Double(Program):
    """A model of 64 bits in a trainer of 32."""

    def __init__(self, net):
        super().__init__(net.double())

    def forward(self, x):
        return self.net(x.to(torch.float64))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        pytest.param(lambda: Autocast(mlp()), dict, id="autocast by hand"),
        pytest.param(lambda: ByHand(mlp()), dict, id="manual optimization with a scaler"),
        pytest.param(lambda: Double(mlp()), dict, id="double"),
        pytest.param(
            program(mlp), lambda: {"plugins": [pl.plugins.HalfPrecision("bf16-true")]},
            id="HalfPrecision",
        ),
        pytest.param(
            program(mlp), lambda: {"plugins": [pl.plugins.DoublePrecision()]},
            id="DoublePrecision",
        ),
    ],
)  # fmt: skip
def test_other_ways(make, settings):
    assert alarms(watched(make, few, settings=settings)) == []


@pytest.fixture
def wide_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("wide_default")
def test_default_dtype():
    assert alarms(watched(lambda: Double(mlp()), few)) == []


class Outliers(Program):
    """A batch now and then is beyond float16; the scaler refuses the step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(1e6 * x if self.global_step in (13, 37, 41) else x), y)


def test_a_step_refused_between_two_looks():
    assert alarms(fit(lambda: Outliers(mlp()), few(), epochs=7, **scaled())) == []


# -- bugs --------------------------------------------------------------------------------


def dead():
    net = mlp()
    nn.init.constant_(net[0].bias, -100.0)
    return net


def twice_squashed():
    return nn.Sequential(mlp(), nn.Softmax(1))


class SquashedByHand(nn.Sequential):
    """Probabilities for logits, by no function that is called softmax."""

    def forward(self, x):
        powers = super().forward(x).exp()
        return powers / powers.sum(1, keepdim=True)


def loud():
    """Return a network with far too large logits at the start."""
    net = mlp()
    nn.init.normal_(net[2].weight, std=10.0)
    return net


class Detached(nn.Sequential):
    """A part that no gradient reaches."""

    def forward(self, x):
        return self[2](self[1](self[0](x)).detach())


def regressor():
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))


def broadcast(out, y):
    return (out - y.squeeze(1)).square().mean()


def on_ids(out, y):
    return F.mse_loss(out, y[:, None].to(out.dtype))


few_digits = partial(digits, n=128)
BUGS = {
    "dead-relu": (program(dead), few_digits),
    "probabilities-as-logits": (program(twice_squashed), few_digits),
    "no-gradient": (program(lambda: Detached(*mlp())), few_digits),
    "initial-loss": (program(loud), few_digits),
    "learning-rate-too-high": (program(mlp, rule=SGD, lr=30.0), few),
    "target-broadcast": (program(regressor, broadcast), regression),
    "loss-task-mismatch": (program(lambda: nn.Sequential(mlp(), nn.Linear(10, 1)), on_ids), few),
    "not-log-probabilities": (program(twice_squashed, F.nll_loss), few_digits),
    "input-not-normalized": (program(mlp), partial(digits, n=256, scale=4000.0)),
}
# Each bug in one narrow format, and each format with several bugs; the rest is slow.
NARROW = ("bf16-mixed", "bf16-true", "16-true", "16-mixed")
PAIRED = {(mode, bug) for i, bug in enumerate(BUGS) for mode in NARROW[i % 4 : i % 4 + 1]}


@pytest.mark.parametrize(
    ("mode", "bug"),
    [
        pytest.param(mode, bug, marks=() if (mode, bug) in PAIRED else pytest.mark.slow)
        for mode in MODES
        for bug in BUGS
    ],
)
def test_bugs(mode, bug):
    make, data = BUGS[bug]
    assert bug in names(fit(make, data(), **MODES[mode]()))


@pytest.mark.parametrize("mode", ["bf16-true", "16-true"])
def test_probabilities_by_hand(mode):
    found = fit(program(lambda: SquashedByHand(*mlp())), few(), **MODES[mode]())
    assert "probabilities-as-logits" in names(found)


class Logarithm(Program):
    """From a step on, the logarithm of what is below 0."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        if self.global_step >= 13:
            out = torch.log(out.sum() * 0.0 - 1.0) + out
        return F.cross_entropy(out, y)


@pytest.mark.parametrize("mode", ["bf16-true", "16-true", "16-mixed"])
def test_where_nan_comes_from(mode):
    make = lambda: Logarithm(mlp(), optimizer=partial(SGD, lr=0.01))  # noqa: E731
    found = fit(make, few(), epochs=3, **MODES[mode]())
    (finding,) = [f for f in found.findings if f.name == "non-finite-loss"]
    assert finding.severity is Severity.ERROR
    assert "from step 13 on. It comes from log at" in finding.message


@pytest.mark.parametrize("rule", [SGD, Adam])
def test_weights_that_stall_in_16_bits(rule):
    make = program(mlp, rule=rule, lr=1e-4 if rule is SGD else 1e-6)
    found, wide = (fit(make, few(), precision=p) for p in ("bf16-true", "bf16-mixed"))
    assert "precision-underflow" in names(found)
    assert "precision-underflow" not in names(wide)
