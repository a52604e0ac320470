"""Validation losses that rise while training losses fall."""

import pytest

from lightning_debug.checks import Overfitting
from lightning_debug.finding import Severity
from lightning_debug.observation import Losses, RunEnd, Tracking, Validation, Watcher

TRAIN = [2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1]
RISING = [1.6, 1.2, 1.0, 1.1, 1.3, 1.5, 1.7, 1.9]


def run(validation, train=TRAIN, watchers=(), accuracy=None):
    """Return what the check says of a run with a validation each ten steps."""
    check, told = Overfitting(), []
    for i, (loss, level) in enumerate(zip(validation, train, strict=True)):
        values = tuple((step, level) for step in range(10 * i, 10 * i + 10))
        list(check.on_losses(Losses(step=10 * i, epoch=i, values=values[:5])))
        metrics = {"val_acc": accuracy[i]} if accuracy else {}
        list(check.on_tracking(Tracking(metrics=metrics, watchers=watchers)))
        obs = Validation(step=10 * i + 10, epoch=i, loss=loss, losses=values[5:])
        told += check.on_validation(obs)
    return told + list(check.on_run_end(RunEnd(step=80, epoch=8)))


def test_fires():
    first, *_ = run(RISING)
    assert first.severity == Severity.WARNING
    assert first.where == "validation"
    assert first.step == 80
    assert first.message == (
        "The validation loss has risen from 1 (step 30, epoch 2) to 1.9 (step 80, epoch 7),"
        " while the training loss has fallen from 1 to 0.1."
    )


@pytest.mark.parametrize(
    ("validation", "settings"),
    [
        pytest.param(
            RISING, {"watchers": (Watcher(name="EarlyStopping", monitor="val_loss"),)}, id="guarded"
        ),
        pytest.param(
            RISING,
            {"accuracy": [0.3, 0.4, 0.5, 0.52, 0.55, 0.58, 0.6, 0.62]},
            id="accuracy goes up",
        ),
        pytest.param([1.6, 1.2, 1.0, 1.05, 1.1, 1.2, 1.21, 1.22], {}, id="mild"),
    ],
)
def test_only_info(validation, settings):
    (finding,) = run(validation, **settings)
    assert finding.severity == Severity.INFO


@pytest.mark.parametrize(
    ("validation", "settings"),
    [
        pytest.param([1.6, 1.2, 1.0, 0.9, 0.8, 0.75, 0.7, 0.7], {}, id="falls"),
        pytest.param([1.6, 1.2, 1.0, 1.01, 1.02, 1.02, 1.03, 1.03], {}, id="a tiny rise"),
        pytest.param([1.6, 0.9, 2.0, 1.0, 1.9, 1.1, 1.4, 2.0], {}, id="noise"),
        pytest.param([1.6, 1.2, 1.0, 1.4, 1.5, 1.0, 1.5, 1.5], {}, id="two in a row"),
        pytest.param(
            [0.5, 0.1, 0.01, 0.012, 0.015, 0.016, 0.017, 0.02], {}, id="nearly zero anyway"
        ),
        pytest.param(RISING, {"train": RISING}, id="both rise"),
        pytest.param([100 * v for v in RISING], {}, id="another scale"),
        pytest.param([v - 1.5 for v in RISING], {}, id="below zero"),
        pytest.param([float("nan")] * 8, {}, id="no validation loss"),
    ],
)
def test_silent(validation, settings):
    assert run(validation, **settings) == []


def test_a_guard_has_to_watch_the_right_way():
    reversed_mode = Watcher(name="ModelCheckpoint", monitor="val_loss", mode="max")
    training = Watcher(name="ModelCheckpoint", monitor="train_loss")
    assert run(RISING, watchers=(reversed_mode, training))[0].severity == Severity.WARNING
