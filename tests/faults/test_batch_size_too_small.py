"""Batches of one or two samples, and the same programs with the size that is advised."""

import functools

import pytest
from torch import nn, optim
from torch.nn import functional as F

from lightning_debug import Severity
from tests.runs import Program, alarms, digits, fit, regression

LOSSES: list[float] = []


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)
    )


class Recorded(Program):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        LOSSES.append(float(outputs["loss"]))


def sgd(lr, momentum=0.0):
    return functools.partial(optim.SGD, lr=lr, momentum=momentum)


def last(module, data, epochs=1, **settings):
    """Return the suite and the mean loss over the last quarter of the samples."""
    LOSSES.clear()
    suite = fit(module, data, epochs=epochs, **settings)
    few = LOSSES[-len(LOSSES) // 4 :]
    return suite, sum(few) / len(few)


@pytest.mark.parametrize(
    ("module", "data", "batch"),
    [
        pytest.param(
            lambda: Recorded(mlp(64, 10), optimizer=sgd(0.05, 0.9)), digits, 1, id="mlp, one"
        ),
        pytest.param(lambda: Recorded(mlp(64, 10), optimizer=sgd(0.5)), digits, 2, id="mlp, two"),
        pytest.param(
            lambda: Recorded(cnn(), optimizer=sgd(0.1, 0.9)),
            functools.partial(digits, flat=False),
            1,
            id="cnn",
        ),
        pytest.param(
            lambda: Recorded(mlp(8, 1), F.mse_loss, functools.partial(optim.Adam, lr=0.1)),
            regression,
            1,
            id="regression, adam",
        ),
    ],
)
def test_too_few_samples(module, data, batch):
    found, before = last(module, data(n=512, batch=batch))
    [finding] = [f for f in found.findings if f.name == "batch-size-too-small"]
    assert finding.severity is Severity.WARNING
    size = int(finding.evidence["advised"])
    assert f"batch_size={size}" in finding.fix
    fixed, after = last(module, data(n=512, batch=size))
    assert alarms(fixed) == []
    assert after < before


def test_accumulation_is_as_good():
    def module():
        return Recorded(mlp(64, 10), optimizer=sgd(0.5))

    found, before = last(module, digits(n=512, batch=2))
    assert "batch-size-too-small" in {f.name for f in found.findings}
    fixed, after = last(module, digits(n=512, batch=2), accumulate_grad_batches=16)
    assert alarms(fixed) == []
    assert after < before
