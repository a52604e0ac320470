"""Backward passes that are not the derivative of forward, and the same programs with right ones."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Swish(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class SwishOfOneFactor(Swish):
    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(x)


class Rectifier(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


class RectifierWithoutMask(Rectifier):
    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Affine(Function):
    """The new form: forward without a context."""

    @staticmethod
    def forward(x, weight, bias):
        return x @ weight.t() + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        return gradient @ weight, flat.t() @ x.reshape(-1, x.shape[-1]), flat.sum(0)


class AffineOfMeanBias(Affine):
    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias = Affine.backward(ctx, gradient)
        return -x, weight, bias


class OwnLoss(Function):
    @staticmethod
    def forward(ctx, prediction, target):
        ctx.save_for_backward(prediction, target)
        return ((prediction - target) ** 2).mean()

    @staticmethod
    def backward(ctx, gradient):
        prediction, target = ctx.saved_tensors
        return gradient * 2 * (prediction - target) / prediction.numel(), None


class OwnLossThatForgetsTheFactor(OwnLoss):
    @staticmethod
    def backward(ctx, gradient):
        prediction, target = ctx.saved_tensors
        return (prediction - target).abs() / prediction.numel(), None


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function.apply

    def forward(self, x):
        return self.function(x)


class OwnLinear(nn.Module):
    def __init__(self, function, inputs, outputs):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return self.function.apply(x, self.weight, self.bias)


class Tagger(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 32, batch_first=True)
        self.mixed, self.head = OwnLinear(function, 32, 32), nn.Linear(32, 2)

    def forward(self, ids):
        h, _ = self.rnn(self.table(ids))
        return self.head(self.mixed(h).tanh().mean(1))


class Capped(nn.Module):
    """Caps its activations: behind autograd's back, or as a function."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        h = self.first(x).sigmoid()
        if self.hidden:
            h.data.clamp_(max=0.5)
        else:
            h = h.clamp(max=0.5)
        return self.last(h)


class Erased(nn.Module):
    """Drops a random half of the channels in place, where autograd does not see it."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        h = self.second(self.first(x).relu()) + 0.1
        keep = (torch.rand(8) < 0.5).to(h)[:, None, None]
        if self.hidden:
            with torch.no_grad():
                h *= keep
        else:
            h = h * keep
        return self.head(h.flatten(1).tanh())


def mlp(function):
    return Program(nn.Sequential(nn.Linear(64, 32), Applied(function), nn.Linear(32, 10)))


def cnn(function):
    first = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), Applied(function))
    return Program(
        nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    )


def tagger(function):
    return Program(Tagger(function))


def regressor(function):
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    return Program(net, lambda prediction, y: function.apply(prediction, y))


PAIRS = [
    pytest.param(mlp, SwishOfOneFactor, Swish, digits, "net.1", id="mlp: a factor too few"),
    pytest.param(
        cnn, RectifierWithoutMask, Rectifier, lambda: digits(flat=False), "net.2", id="cnn: no mask"
    ),
    pytest.param(
        tagger,
        AffineOfMeanBias,
        Affine,
        sequences,
        "net.mixed",
        id="gru: wrong sign",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        regressor,
        OwnLossThatForgetsTheFactor,
        OwnLoss,
        regression,
        "OwnLossThatForgetsTheFactor",
        id="a loss of one's own",
    ),
]


@pytest.mark.parametrize(("program", "bug", "right", "data", "place"), PAIRS)
def test_a_function_with_a_wrong_backward(program, bug, right, data, place):
    suite = fit(lambda: program(bug), data(), epochs=1)
    assert "wrong-gradient" in names(suite)
    assert places(suite, "wrong-gradient") == {place}
    assert alarms(fit(lambda: program(right), data(), epochs=1)) == []


@pytest.mark.parametrize(
    ("net", "data"),
    [(Capped, digits), (Erased, lambda: digits(flat=False))],
)
def test_values_changed_behind_autograd(net, data):
    suite = fit(lambda: Program(net(hidden=True)), data(), epochs=1)
    assert places(suite, "wrong-gradient") == {"net"}
    assert alarms(fit(lambda: Program(net(hidden=False)), data(), epochs=1)) == []


class ByHand(pl.LightningModule):
    """Manual optimization, and a wrong branch that matters only after the first updates."""

    def __init__(self, function):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.side = nn.Linear(64, 10)
        self.gate = nn.Parameter(torch.zeros(()))
        self.function = function

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        logits = self.net(x) + self.gate * self.function.apply(self.side(x))
        loss = F.cross_entropy(logits, y)
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def test_manual_optimization():
    suite = fit(lambda: ByHand(SwishOfOneFactor), digits(), epochs=1)
    assert places(suite, "wrong-gradient") == {"SwishOfOneFactor"}
    assert alarms(fit(lambda: ByHand(Swish), digits(), epochs=1)) == []
