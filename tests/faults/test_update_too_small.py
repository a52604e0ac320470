"""Learning rates far too low, and the same programs with a usual one."""

from functools import partial

import pytest

from tests.faults.test_update_too_large import ADAM, SGD, Groups, cnn, lstm, mlp, transformer
from tests.runs import alarms, digits, fit, names, places, sequences


@pytest.mark.parametrize(
    ("program", "data", "optimizer", "low", "usual"),
    [
        pytest.param(mlp, digits(), SGD, 1e-7, 0.05, id="mlp, sgd"),
        pytest.param(mlp, digits(), ADAM, 1e-9, 1e-3, id="mlp, adam"),
        pytest.param(cnn, digits(flat=False), ADAM, 1e-9, 1e-3, id="cnn, adam"),
        pytest.param(lstm, sequences(), SGD, 1e-7, 0.1, id="lstm, sgd"),
        pytest.param(
            transformer,
            sequences(),
            ADAM,
            3e-8,
            1e-3,
            id="transformer, adam",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pair(program, data, optimizer, low, usual):
    broken = fit(lambda: program(partial(optimizer, lr=low)), data)
    assert "update-too-small" in names(broken)
    assert places(broken, "update-too-small") == {"Adam" if optimizer is ADAM else "SGD"}
    fixed = fit(lambda: program(partial(optimizer, lr=usual)), data)
    assert alarms(fixed) == []


def test_group():
    broken = fit(lambda: Groups(1e-9), digits(flat=False))
    assert places(broken, "update-too-small") == {"AdamW group 0"}
    assert alarms(fit(lambda: Groups(1e-4), digits(flat=False))) == []
