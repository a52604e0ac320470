"""Gradients that are clipped away, and the same programs with the limit that is advised."""

import functools

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn, optim

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, regression, sequences

SGD = functools.partial(optim.SGD, lr=0.1, momentum=0.9)
PLAIN = functools.partial(optim.SGD, lr=0.1)


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)
    )


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0].mean(1))


class Recorded(Program):
    """Keeps the last losses of the run."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        LAST.append(float(outputs["loss"]))


class Manual(Recorded):
    """Clips by hand: at once, or when the factor of the scaler is off."""

    def __init__(self, *args, limit, unscaled, **options):
        super().__init__(*args, **options)
        self.automatic_optimization = False
        self.limit, self.unscaled = limit, unscaled

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        if not self.unscaled:
            self.clip_gradients(optimizer, self.limit, "norm")
        optimizer.step()
        return loss

    def on_before_optimizer_step(self, optimizer):
        if self.unscaled:
            nn.utils.clip_grad_norm_(self.parameters(), self.limit)


class Functional(Recorded):
    """Weights that no module owns, and a clip written by hand."""

    def __init__(self, limit):
        super().__init__(nn.Identity(), nn.functional.mse_loss, PLAIN)
        self.automatic_optimization = False
        self.limit = limit
        self.first = nn.Parameter(torch.randn(8, 32) / 8**0.5)
        self.second = nn.Parameter(torch.randn(32, 1) / 32**0.5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = self.loss(torch.tanh(x @ self.first) @ self.second, y)
        optimizer.zero_grad()
        loss.backward()
        norm = sum(p.grad.pow(2).sum() for p in self.parameters()).sqrt()
        for parameter in self.parameters():
            parameter.grad.mul_((self.limit / norm).clamp(max=1.0))
        optimizer.step()
        return {"loss": loss.detach()}


LAST: list[float] = []


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def trained(module, data, epochs, **settings):
    """Return the suite and the mean of the last losses."""
    LAST.clear()
    suite = fit(module, data, epochs=epochs, **settings)
    return suite, sum(LAST[-8:]) / 8


@pytest.mark.parametrize(
    ("module", "data", "limit", "epochs"),
    [
        pytest.param(lambda: Recorded(mlp(), optimizer=SGD), digits, 1e-3, 2, id="mlp"),
        pytest.param(
            lambda: Recorded(cnn(), optimizer=PLAIN),
            lambda: digits(flat=False),
            1e-2,
            2,
            id="cnn, a hundredth",
        ),
        pytest.param(lambda: Recorded(Tagger(), optimizer=SGD), sequences, 1e-4, 4, id="lstm"),
        pytest.param(
            lambda: Recorded(mlp(), optimizer=SGD), lambda: digits(n=512), 1e-4, 1, id="short"
        ),
    ],
)
def test_trainer_clips_too_much(module, data, limit, epochs):
    found, before = trained(module, data(), epochs, gradient_clip_val=limit)
    [finding] = [f for f in found.findings if f.name == "clipping-too-tight"]
    assert finding.severity is Severity.WARNING
    assert finding.where == "SGD"
    advised = finding.evidence["limit"]
    fixed, after = trained(module, data(), epochs, gradient_clip_val=advised)
    assert alarms(fixed) == []
    assert after < before


@pytest.mark.parametrize("optimizer", [SGD, optim.Adam], ids=["sgd", "adam"])
def test_only_signs_are_left(optimizer):
    def module():
        return Recorded(mlp(), optimizer=functools.partial(optimizer, lr=1e-3))

    by_value = {"gradient_clip_algorithm": "value"}
    found, before = trained(module, digits(), 4, gradient_clip_val=1e-5, **by_value)
    [finding] = [f for f in found.findings if f.name == "clipping-too-tight"]
    assert finding.severity is Severity.WARNING
    fixed, after = trained(module, digits(), 4, gradient_clip_val=0.5, **by_value)
    assert alarms(fixed) == []
    assert after < before or optimizer is optim.Adam


@pytest.mark.parametrize("optimizer", [SGD, optim.Adam], ids=["sgd", "adam"])
def test_scaled_gradients_are_clipped(optimizer):
    def module(unscaled):
        return lambda: Manual(
            mlp(),
            optimizer=functools.partial(optimizer, lr=1e-2),
            limit=0.5,
            unscaled=unscaled,
        )

    found, before = trained(module(unscaled=False), digits(), 2, **scaled())
    [finding] = [f for f in found.findings if f.name == "clipping-too-tight"]
    assert finding.severity is Severity.WARNING
    assert "test_clipping_too_tight.py" in finding.message
    assert "factor 65536 of the gradient scaler" in finding.message
    fixed, after = trained(module(unscaled=True), digits(), 2, **scaled())
    assert alarms(fixed) == []
    assert after < before


def test_a_clip_by_hand():
    found, before = trained(lambda: Functional(1e-3), regression(), 3)
    [finding] = [f for f in found.findings if f.name == "clipping-too-tight"]
    assert finding.severity is Severity.WARNING
    assert "test_clipping_too_tight.py" in finding.message
    fixed, after = trained(lambda: Functional(finding.evidence["limit"]), regression(), 3)
    assert alarms(fixed) == []
    assert after < before
