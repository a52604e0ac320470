"""Steps, gradients and eps that 16 bits cannot hold, and the same where they can."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, names, regression, sequences

Adam, SGD = torch.optim.Adam, torch.optim.SGD


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def small():
    return nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1)
    )  # fmt: skip


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Tagger(Program):
    """An LSTM over tokens."""

    def __init__(self, **settings):
        super().__init__(nn.LSTM(4, 12, batch_first=True), optimizer=partial(Adam, **settings))
        self.table, self.head = nn.Embedding(20, 4), nn.Linear(12, 2)

    def forward(self, ids):
        return self.head(self.net(self.table(ids))[0][:, -1])


class Halved(Program):
    """Autocast by hand, with a loss of a small weight, and a scaler or none."""

    def __init__(self, dtype, *, scaled=False, manual=False):
        super().__init__(mlp(), optimizer=partial(Adam, lr=1e-3, eps=1e-16))
        self.dtype_, self.automatic_optimization = dtype, not manual
        self.scaler = torch.amp.GradScaler("cpu") if scaled else None

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.autocast("cpu", dtype=self.dtype_):
            out = self.net(x)
        loss = 1e-5 * F.cross_entropy(out.float(), y)
        if not self.automatic_optimization:
            optimizer = self.optimizers(use_pl_optimizer=not self.scaler)
            optimizer.zero_grad()
            if self.scaler:
                self.manual_backward(self.scaler.scale(loss))
                self.scaler.step(optimizer)
                self.scaler.update()
            else:
                self.manual_backward(loss)
                optimizer.step()
        return loss


class Times(Program):
    """A loss times a factor."""

    def __init__(self, factor):
        super().__init__(cnn())
        self.factor = factor

    def training_step(self, batch, batch_idx):
        return self.factor * super().training_step(batch, batch_idx)


def scaled():
    scaler = torch.amp.GradScaler("cpu")
    return {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def precision(name):
    return {"precision": name}


def root(suite):
    """Return the names of the alarms that nothing explains."""
    return {f.name for f in suite.findings if f.severity > Severity.INFO and not f.caused_by}


@pytest.mark.parametrize(
    ("program", "data", "bug", "fix"),
    [
        pytest.param(
            lambda: Program(mlp()), lambda: digits(n=512),
            precision("16-true"), precision("32-true"), id="eps of Adam in float16",
        ),
        pytest.param(
            lambda: Program(small(), F.mse_loss, partial(Adam, lr=5e-5)), regression,
            precision("bf16-true"), precision("bf16-mixed"), id="MLP in bfloat16",
        ),
        pytest.param(
            lambda: Tagger(lr=1e-4), sequences,
            precision("bf16-true"), precision("32-true"), id="LSTM in bfloat16",
        ),
        pytest.param(
            lambda: Program(cnn(), optimizer=partial(SGD, lr=1e-3, momentum=0.9)),
            lambda: digits(n=512, flat=False),
            precision("bf16-true"), precision("32-true"), id="CNN in bfloat16 with SGD",
        ),
    ],
)  # fmt: skip
def test_precision_underflow(program, data, bug, fix):
    found, fixed = (fit(program, data(), **settings) for settings in (bug, fix))
    assert "precision-underflow" in root(found)
    assert root(found) == {"precision-underflow"}
    assert alarms(fixed) == []


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        pytest.param(
            lambda: Halved(torch.float16), lambda: Halved(torch.bfloat16), id="autocast by hand"
        ),
        pytest.param(
            lambda: Halved(torch.float16, manual=True),
            lambda: Halved(torch.float16, manual=True, scaled=True),
            id="manual optimization without a scaler",
        ),
    ],
)
def test_gradients_are_flushed(bug, fix):
    found, fixed = (fit(program, digits(n=512)) for program in (bug, fix))
    (finding,) = [f for f in found.findings if f.name == "precision-underflow"]
    assert finding.where == "gradients"
    assert "net.0.weight" in finding.message
    assert "precision-underflow" not in names(fixed)


def test_scaler_that_refuses_every_step():
    data = partial(digits, n=512, flat=False)
    found, fixed = (fit(lambda k=k: Times(k), data(), **scaled()) for k in (1e30, 1.0))
    (finding,) = [f for f in found.findings if f.name == "precision-underflow"]
    assert finding.where == "gradient scaler"
    assert alarms(fixed) == []
