"""Losses that stay at chance."""

import random

import pytest

from lightning_debug.checks import LossNotDecreasing
from lightning_debug.observation import (
    LossCall,
    LossCalls,
    Losses,
    ParameterStart,
    ParameterUpdate,
    RunEnd,
    RunStart,
    Targets,
    Updates,
)


def run(level, *, steps=400, every=20, factor=1.0, optimizers=("Adam",), rate=1e-3, **changes):
    """Return what the check says of a run; ``level`` gives the loss of a step, without noise."""
    noise = random.Random(0)
    check = LossNotDecreasing()
    starts = {
        f"p{i}": ParameterStart(shape=(2, 2), optimizer=name) for i, name in enumerate(optimizers)
    }
    list(check.on_run_start(RunStart(parameters=starts)))
    target = Targets(shape=(32,), dtype="integer", distinct=10, made=changes.pop("made", False))
    fields = {"function": "cross_entropy", "classes": 10, "target": target}
    fields["references"] = {"uniform": 2.303, "prior": 2.16}
    values, told, streak = [], [], 0
    for step in range(steps):
        value = level(step) + noise.gauss(0, 0.05)
        values.append((step, factor * value))
        if step % every:
            continue
        epoch = step // 100
        call = LossCall(**fields | {"value": value} | changes)
        list(check.on_loss_calls(LossCalls(step=step, epoch=epoch, calls=(call,))))
        found = list(check.on_losses(Losses(step=step, epoch=epoch, values=tuple(values))))
        values = []
        lr = rate(step) if callable(rate) else rate
        update = Updates(
            step=step, optimizer=optimizers[0], parameters={"p": ParameterUpdate(lr=lr)}
        )
        list(check.on_updates(update))
        streak = streak + 1 if found else 0
        told += found if streak >= check.patience else []
    return told + list(check.on_run_end(RunEnd(step=steps, epoch=steps // 100)))


def test_fires_at_chance():
    first, *_ = run(lambda step: 2.31)
    assert first.where == "training_step"
    assert first.message.startswith("After 181 updates cross_entropy is still 2.2")
    assert "; a constant prediction gives 2.301 on the same batches." in first.message


def test_fires_where_it_has_come_down_to_chance_and_stays():
    assert run(lambda step: 2.31 + 2.0 * max(0, 1 - step / 100))


def test_fires_uphill():
    first, *_ = run(lambda step: 2.3 + 0.02 * step)
    assert "has risen to" in first.message
    assert "maximize=True" in first.fix


def test_fires_on_a_minus_before_the_loss():
    first, *_ = run(lambda step: 2.3 + 0.002 * step, factor=-1.0)
    assert "minus sign" in first.message


@pytest.mark.parametrize(
    ("level", "settings"),
    [
        pytest.param(lambda step: 2.31, {"steps": 140}, id="short"),
        pytest.param(lambda step: 2.31 - 0.002 * step, {}, id="falls slowly"),
        pytest.param(lambda step: 2.2, {}, id="better than chance, and flat"),
        pytest.param(lambda step: 0.01, {}, id="converged"),
        pytest.param(lambda step: 2.31, {"optimizers": ("Adam 0", "Adam 1")}, id="two optimizers"),
        pytest.param(lambda step: 2.31, {"rate": lambda step: 1e-6 * step**2}, id="warm-up"),
        pytest.param(lambda step: 2.31, {"references": {}}, id="no reference"),
        pytest.param(lambda step: 2.31, {"made": True}, id="targets of the model"),
        pytest.param(lambda step: 2.31, {"value": 1.0}, id="the loss function is below chance"),
    ],
)
def test_silent(level, settings):
    assert run(level, **settings) == []
