import math

import pytest

from lightning_debug.checks.connections.activation_scale import ActivationScale
from tests.build_observations import activations, module


def net(*sizes, **changes):
    return activations(*(module(f"net.{i}", rms=rms, **changes) for i, rms in enumerate(sizes)))


def test_fires():
    (finding,) = ActivationScale().on_activations(net(1, 10, 100, 1000, 1e4, 1e5))
    assert finding.message == (
        "The rms of the activations grows from 1.0e+00 at net.0 to 1.0e+05 at net.5, over 6 layers."
    )
    assert finding.where == "net.5"


def test_fires_when_they_shrink():
    (finding,) = ActivationScale().on_activations(net(1, 0.1, 1e-2, 1e-3, 1e-4))
    assert "shrinks from 1.0e+00 at net.0 to 1.0e-04 at net.4" in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(net(1, 1.2, 0.9, 1.5, 1.1, 0.8), id="steady"),
        pytest.param(net(1, 2, 4, 8, 16, 32), id="a residual stream"),
        pytest.param(net(1, 1e4, 1, 1, 1e4, 1), id="norms bring it back"),
        pytest.param(net(1, 1e2, 1e4, 1e6), id="few layers"),
        pytest.param(net(1, 1, 1, 1, 1, 1e-4), id="one small layer"),
        pytest.param(net(1, 10, 100, 1000, 1e4, 1e5, trained=False), id="frozen"),
        pytest.param(net(1, 10, math.inf, math.nan, 1e4, 1e5), id="not finite"),
        pytest.param(activations(), id="nothing ran"),
    ],
)
def test_silent(obs):
    assert not list(ActivationScale().on_activations(obs))
