"""ignores-input on hand-written observations."""

import pytest

from lightning_debug.checks.start_simple.ignores_input import IgnoresInput
from lightning_debug.observation import InputUse
from tests.build_probes import unused


def test_fires() -> None:
    (found,) = IgnoresInput().on_input_use(unused(place="decoder"))
    assert found.where == "context of decoder"
    assert found.severity == "error"
    assert found.message == (
        "The input context of decoder changes none of its outputs: those for other samples were"
        " put in its place."
    )


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        pytest.param(
            unused("batch[0]", part="columns", first=5, last=7, size=8),
            "Columns 5 to 7 of the 8 of batch[0] go into the model and change neither",
            id="columns",
        ),
        pytest.param(
            unused("batch[0]", part="positions", size=16),
            "Of the 16 positions of batch[0] only position 0 changes",
            id="positions",
        ),
    ],
)
def test_parts(obs, message) -> None:
    (found,) = IgnoresInput().on_input_use(obs)
    assert message in found.message
    assert found.where == "batch[0]"


def test_waits_for_branches_to_open() -> None:
    assert IgnoresInput().patience == 2


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(InputUse(), id="all inputs are used"),
        pytest.param(InputUse(skipped="there are too few samples in the batch"), id="skipped"),
    ],
)
def test_silent(obs) -> None:
    assert not list(IgnoresInput().on_input_use(obs))
