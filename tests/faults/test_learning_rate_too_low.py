"""Learning rates that are too low, the factor that is suggested, and what it makes of the run."""

from functools import partial

import pytest
from torch import nn, optim
from torch.nn import functional as F

from tests.faults.test_learning_rate_too_high import (
    ByHand,
    Losses,
    cnn,
    encoder,
    images,
    mlp,
    recurrent,
    regressor,
)
from tests.runs import Program, alarms, digits, fit, names, regression, sequences

PROGRAMS = {
    "mlp, Adam": (mlp, optim.Adam, 1e-6, digits),
    "mlp, AdamW": (mlp, optim.AdamW, 1e-5, digits),
    "cnn, SGD": (cnn, optim.SGD, 1e-5, images),
    "regression, Adam": (regressor, optim.Adam, 1e-6, regression),
    "transformer, Adam": (encoder, optim.Adam, 1e-6, sequences),
    "lstm, SGD": (recurrent, optim.SGD, 1e-4, sequences),
    "manual optimization, Adam": (ByHand, optim.Adam, 1e-7, digits),
}


@pytest.mark.parametrize(("program", "kind", "lr", "data"), PROGRAMS.values(), ids=list(PROGRAMS))
def test_the_suggested_rate_makes_it_learn(program, kind, lr, data):
    before, after = Losses(), Losses()
    suite = fit(lambda: program(partial(kind, lr=lr)), data(), callbacks=(before,))
    [finding] = [f for f in suite.findings if f.name == "learning-rate-too-low"]
    assert finding.caused_by == ""
    suggested = lr * finding.evidence["factor"]
    fixed = fit(lambda: program(partial(kind, lr=suggested)), data(), callbacks=(after,))
    assert alarms(fixed) == []
    assert after.last < 0.9 * before.last


class Scheduled(Program):
    """The function of a LambdaLR returns the rate itself, which is multiplied with the rate."""

    def __init__(self, net, rate, broken):
        super().__init__(net)
        self.rate, self.broken = rate, broken

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=self.rate)
        full = self.rate if self.broken else 1.0
        warm_up = optim.lr_scheduler.LambdaLR(optimizer, lambda n: full * min(1.0, (n + 1) / 20))
        return [optimizer], [{"scheduler": warm_up, "interval": "step"}]


@pytest.mark.parametrize(
    ("net", "rate", "data"),
    [
        pytest.param(lambda: mlp(optim.Adam).net, 1e-3, digits, id="mlp"),
        pytest.param(lambda: encoder(optim.Adam).net, 3e-4, sequences, id="transformer"),
    ],
)
def test_a_schedule_that_gives_rates_for_factors(net, rate, data):
    broken = fit(lambda: Scheduled(net(), rate, True), data(), epochs=10)
    [finding] = [f for f in broken.findings if f.name == "learning-rate-too-low"]
    assert "LambdaLR" in finding.fix
    assert alarms(fit(lambda: Scheduled(net(), rate, False), data(), epochs=10)) == []


def frozen_out():
    return Program(nn.Linear(64, 10), F.cross_entropy, partial(optim.SGD, lr=0.0))


def test_zero():
    suite = fit(frozen_out, digits())
    assert {"learning-rate-too-low", "weights-not-updated"} <= names(suite)
