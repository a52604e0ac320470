import math

import pytest

from lightning_debug.checks.connections.vanishing_gradient import VanishingGradient
from lightning_debug.finding import Severity
from tests.build_updates import gradients, layers, told


def test_fires():
    [finding] = told(VanishingGradient(), layers([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]))
    assert finding.message == (
        "The gradient over the weight is 1.0e-07 at net.0.weight but 1.0e-02 at net.5.weight: it"
        " shrinks by 10^5.0 over 6 layers."
    )
    assert finding.where == "net.0.weight"
    assert finding.severity is Severity.WARNING
    assert finding.evidence == {"first": 1e-7, "last": 1e-2}


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(layers([1e-3] * 6), id="even"),
        pytest.param(layers([1e-12] * 6), id="tiny everywhere, near a minimum"),
        pytest.param(layers([1e-4, 1e-3, 1e-3, 1e-2]), id="two decades"),
        pytest.param(layers([1e-6, 1e-4, 1e-2]), id="too few layers to speak of depth"),
        pytest.param(layers([1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]), id="grows instead"),
        pytest.param(layers([1e-9, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2]), id="only the embedding"),
        pytest.param(layers([1e-7, 1e-2, 1e-6, 1e-3, 1e-7, 1e-2]), id="no trend"),
        pytest.param(layers([1e-7, math.nan, 1e-5, 1e-4]), id="not a number"),
        pytest.param(gradients({}), id="no parameters"),
        pytest.param(
            gradients({f"net.{i}.bias": {"dims": 1, "rms": 10.0**i, "order": i} for i in range(6)}),
            id="biases",
        ),
        pytest.param(
            gradients({f"net.{i}.weight": {"rms": 10.0**i, "order": -1} for i in range(6)}),
            id="modules that did not run",
        ),
    ],
)
def test_silent(obs):
    assert told(VanishingGradient(), obs) == []
