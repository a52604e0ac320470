"""Losses that grow out of hand."""

import pytest

from lightning_debug.checks import LossDiverging
from lightning_debug.finding import Severity
from lightning_debug.observation import (
    LossCall,
    LossCalls,
    Losses,
    ParameterStart,
    RunStart,
    Targets,
    WholeLoss,
)


def run(level, *, steps=100, chance=1.0, calls=True, value=None, optimizers=("Adam",)):
    """Return what the check says at the end; ``level`` gives the loss of a step."""
    check, streak, told = LossDiverging(), 0, []
    starts = {
        f"p{i}": ParameterStart(shape=(2, 2), optimizer=name) for i, name in enumerate(optimizers)
    }
    list(check.on_run_start(RunStart(parameters=starts)))
    for start in range(0, steps, 10):
        values = tuple((step, level(step)) for step in range(start, start + 10))
        now = value if value is not None else values[0][1]
        reference = chance(start) if callable(chance) else chance
        call = LossCall(
            function="mse_loss",
            value=now,
            references={"mean": reference} if reference else {},
            target=Targets(shape=(10**6,), made=not reference),
        )
        list(check.on_loss_calls(LossCalls(step=start, calls=(call,) if calls else ())))
        found = list(check.on_losses(Losses(step=start, values=values)))
        streak = streak + 1 if found else 0
        told += found if streak >= check.patience else []
    return told


def growing(step):
    return 1.0 * 1.1**step


def test_fires():
    first, *_ = run(growing)
    assert first.severity == Severity.ERROR
    assert first.message.startswith("The loss was 1.1 at first and 1.1 at best; a quarter of the")
    assert first.where == "loss"


def test_fires_where_it_jumps_about():
    assert run(lambda step: 1000.0 if step > 20 and step % 3 == 0 else 0.5)


def test_fires_without_a_loss_function():
    assert run(growing, calls=False)


@pytest.mark.parametrize(
    ("level", "settings"),
    [
        pytest.param(lambda step: 1000.0 if step == 50 else 1.0, {}, id="a spike"),
        pytest.param(lambda step: 1.0 + 0.05 * step, {}, id="grows fivefold"),
        pytest.param(lambda step: growing(step) - 1.5, {}, id="negative once"),
        pytest.param(growing, {"chance": growing}, id="targets grow"),
        pytest.param(growing, {"chance": 0.0}, id="targets of the model"),
        pytest.param(growing, {"value": 0.5}, id="the total grows, its loss function does not"),
        pytest.param(growing, {"optimizers": ("Adam 0", "Adam 1")}, id="two optimizers"),
        pytest.param(lambda step: 1e-4 + 1e-4 * step, {}, id="far below chance"),
        pytest.param(
            lambda step: 10 if step > 50 else 1, {"calls": False}, id="a tenfold, unknown"
        ),
    ],
)
def test_silent(level, settings):
    assert run(level, **settings) == []


def descend(total, value, *, reference=1.0, made=False):
    """Return what the check says at the end; the total and the loss function by step."""
    check, told = LossDiverging(), []
    for step in range(0, 100, 10):
        call = LossCall(
            function="mse_loss",
            value=value(step),
            references={"mean": reference},
            target=Targets(shape=(10**6,), made=made),
        )
        whole = WholeLoss(value=total(step))
        list(check.on_loss_calls(LossCalls(step=step, calls=(call,), whole=whole)))
        values = tuple((step + i, total(step)) for i in range(10))
        told = list(check.on_losses(Losses(step=step, values=values)))
    return check, told


def test_says_that_the_sign_is_wrong():
    check, (finding,) = descend(lambda step: -growing(step), growing)
    assert finding.message == (
        "The loss has fallen to -5313, while the loss functions in it have risen to 5313; constant"
        " predictions give 1. The steps make the model worse."
    )
    assert "sign" in finding.fix
    assert check.causes() == ()


def test_a_part_with_the_wrong_sign():
    _, told = descend(lambda step: -growing(step), lambda step: 1.0 + 0.06 * step)
    assert told


@pytest.mark.parametrize(
    ("total", "value", "settings"),
    [
        pytest.param(lambda step: -growing(step), lambda step: 0.5, {}, id="density beside data"),
        pytest.param(
            lambda step: -growing(step), growing, {"made": True}, id="returns and their critic"
        ),
        pytest.param(
            lambda step: 4.0 - 0.05 * step, lambda step: 4.0, {}, id="against a discriminator"
        ),
        pytest.param(
            lambda step: -growing(step), lambda step: 4.0, {}, id="no better than at the start"
        ),
        pytest.param(lambda step: -5000.0, lambda step: 4.0, {}, id="large from the start"),
        pytest.param(lambda step: -5.0, lambda step: 5.0, {}, id="minus a small loss"),
        pytest.param(lambda step: 0.5, lambda step: 0.5, {}, id="positive"),
    ],
)
def test_silent_on_a_negative_loss(total, value, settings):
    check, told = descend(total, value, **settings)
    assert told == []
    assert check.causes() == check.symptom_of
