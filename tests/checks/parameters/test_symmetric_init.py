import math

import pytest

from lightning_debug.checks.parameters.symmetric_init import SymmetricInit
from lightning_debug.finding import Severity
from tests.build_observations import gradients


def look(**changes):
    return gradients(
        net__0__weight={"unit_spread": 0.0, "gradient_spread": 0.0, "norm": 0.3} | changes
    )


def test_fires():
    (finding,) = SymmetricInit().on_gradients(look())
    assert finding.message == (
        "All units of net.0.weight started with the same weights and get the same gradient (norm"
        " 0.3), so they stay the same."
    )
    assert finding.where == "net.0.weight"
    assert finding.severity == Severity.ERROR


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"unit_spread": math.nan, "gradient_spread": math.nan}, id="random weights"),
        pytest.param({"gradient_spread": 0.9}, id="zero-initialised head"),
        pytest.param({"gradient_spread": 0.05}, id="dropout tells the units apart"),
        pytest.param({"unit_spread": 0.4}, id="already apart"),
    ],
)
def test_silent(changes):
    assert not list(SymmetricInit().on_gradients(look(**changes)))
