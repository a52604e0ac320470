import math

import pytest

from lightning_debug.checks.connections.accumulation_not_scaled import AccumulationNotScaled
from lightning_debug.finding import Severity
from tests.build_connections import uses
from tests.build_updates import told

SUM = {"batches": 4, "weights": (1.0,) * 4}


def test_fires_on_a_sum():
    [finding] = told(AccumulationNotScaled(), *[uses(SUM), uses(), uses()] * 2, uses(SUM))
    assert finding.message == (
        "Each step of SGD uses the gradients of 4 batches added up, undivided: it is 4 times as"
        " large as that of the mean."
    )
    assert (finding.where, finding.severity) == ("SGD", Severity.WARNING)


def test_counts_the_batches_of_a_step_that_was_seen_from_its_start():
    few = {"batches": 2, "weights": (1.0,) * 2}
    [finding] = told(AccumulationNotScaled(), *[uses(SUM), uses(few)] * 3)
    assert finding.evidence["batches"] == 4


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"weights": (0.25,) * 4}, id="divided"),
        pytest.param({"weights": (1.0, 0.5) * 2}, id="divided every other time"),
        pytest.param({"weights": (math.nan,) * 4}, id="an unknown loss"),
        pytest.param({"factor": 0.25}, id="gradients divided"),
        pytest.param({"factor": 0.7}, id="gradients clipped"),
        pytest.param({"scaled": True}, id="divided by a tensor"),
        pytest.param({"summed": True}, id="a sum over the batch"),
        pytest.param({"batches": 1}, id="one batch"),
        pytest.param({"alone": False}, id="a part that steps rarely"),
        pytest.param({"again": True}, id="not cleared"),
    ],
)
def test_silent(change):
    assert told(AccumulationNotScaled(), *[uses({**SUM, **change})] * 9) == []
