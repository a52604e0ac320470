import math

import pytest

from lightning_debug.checks.connections.dead_relu import DeadRelu
from tests.build_observations import activations, nonlinear


def look(**changes):
    return activations(nonlinear(**{"dead_share": 0.9, "dead_margin": 2.0} | changes))


def test_fires():
    (finding,) = DeadRelu().on_activations(look())
    assert finding.message == (
        "90% of the units of net.1 gave 0 for all 256 values seen in the last 8 batches."
    )
    assert finding.where == "net.1"


def test_fires_on_a_dead_output():
    obs = look(head=True, compared=True, units=1, dead_share=1.0)
    assert list(DeadRelu().on_activations(obs))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"dead_share": 0.5}, id="half of the units"),
        pytest.param({"dead_share": 0.75, "units": 4}, id="narrow layer"),
        pytest.param({"dead_margin": 0.1}, id="sparse: nearly above zero"),
        pytest.param({"dead_margin": math.nan}, id="no margin"),
        pytest.param({"dead_looks": 7}, id="few batches"),
        pytest.param({"dead_samples": 64}, id="few samples"),
        pytest.param({"trained": False}, id="frozen"),
        pytest.param({"head": True, "compared": False}, id="hinge of a loss"),
        pytest.param({"kind": "tanh"}, id="another function"),
    ],
)
def test_silent(changes):
    assert not list(DeadRelu().on_activations(look(**changes)))


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_refuses_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share"):
        DeadRelu(share=share)


@pytest.mark.parametrize(
    ("first", "explained"),
    [
        pytest.param(1.0, False, id="dead from the first batch on"),
        pytest.param(0.4, True, id="died later"),
    ],
)
def test_updates_explain_only_what_they_may_have_done(first, explained):
    check = DeadRelu()
    list(check.on_activations(look(dead_share=first, dead_looks=1, dead_samples=32)))
    list(check.on_activations(look(dead_share=1.0)))
    assert ("update-too-large" in check.causes()) is explained
    assert "symmetric-init" in check.causes()
