"""future-leak on hand-written observations."""

import pytest

from lightning_debug.checks.start_simple.future_leak import FutureLeak
from lightning_debug.observation import FutureLeak as Seen
from tests.build_probes import leak


def test_fires() -> None:
    (found,) = FutureLeak().on_future_leak(leak())
    assert found.where == "block.attention"
    assert found.severity == "error"
    assert found.patience == 0
    assert found.message == (
        "The target of cross_entropy is the input batch[0], 1 position later, but in"
        " block.attention (Attention) the output for position 4 of 19 changes with the input from"
        " that target on."
    )


@pytest.mark.parametrize(
    ("obs", "message", "fix"),
    [
        pytest.param(
            leak("copy", shift=0, place="training_step", module=""),
            "at the same position, and the model, which looks at no later ones, sees it",
            "Shift the target",
            id="not shifted",
        ),
        pytest.param(
            leak("column", shift=0, position=5, length=6, function="mse_loss"),
            "equals value 5 of the 6 of the input batch[0] in every sample",
            "Leave the target out",
            id="target in the table",
        ),
        pytest.param(
            leak("column", shift=0, position=5, length=6, scaled=True),
            "equals, but for its scale, value 5 of the 6 of the input batch[0] in every sample",
            "end the window before the target",
            id="window that ends with the target",
        ),
        pytest.param(leak(shift=3), "3 positions later", "causal mask", id="horizon"),
    ],
)
def test_says_which(obs, message, fix) -> None:
    (found,) = FutureLeak().on_future_leak(obs)
    assert message in found.message
    assert fix in found.fix


def test_a_table_is_looked_at_twice() -> None:
    (found,) = FutureLeak(column_patience=3).on_future_leak(leak("column"))
    assert found.patience == 3


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(Seen(), id="no leak"),
        pytest.param(Seen(skipped="no loss compares a prediction with data"), id="skipped"),
    ],
)
def test_silent(obs) -> None:
    assert not list(FutureLeak().on_future_leak(obs))
