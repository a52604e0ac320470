import math

import pytest

from lightning_debug.checks.connections.activation_collapse import ActivationCollapse
from tests.build_observations import activations, module


def test_fires():
    obs = activations(
        module("net.0"),
        module("net.1", kind="Softmax", spread=0.0),
        module("net.2", spread=0.0, input_spread=0.0, source="net.0"),
    )
    (finding,) = ActivationCollapse().on_activations(obs)
    assert finding.message == (
        "net.1 (Softmax) gives the same output for every sample (relative spread 0.0e+00); its"
        " input has a spread of 5.0e-01."
    )
    assert finding.where == "net.1"


def chain(*spreads):
    calls, source, before = [], "", 0.5
    for i, spread in enumerate(spreads):
        calls.append(module(f"net.{i}", spread=spread, input_spread=before, source=source))
        source, before = f"net.{i}", spread
    return activations(*calls)


def test_fires_where_a_long_chain_fades():
    check = ActivationCollapse()
    (finding,) = check.on_activations(chain(0.1, 1e-2, 1e-3, 1e-4, 5e-5, 8e-6, 1e-6, 1e-6))
    assert finding.message == (
        "net.5 (Linear) gives the same output for every sample (relative spread 8.0e-06); the"
        " layers before it lose a spread of 5.0e-01 bit by bit."
    )
    (again,) = check.on_activations(chain(0.1, 1e-2, 1e-3, 1e-4, 5e-5, 2e-5, 5e-6, 1e-6))
    assert again.where == finding.where == "net.5"


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([module(spread=0.3)], id="varied"),
        pytest.param([module(spread=1e-3)], id="small differences"),
        pytest.param([module(spread=0.0, input_spread=0.0)], id="input does not differ"),
        pytest.param([module(spread=0.0, input_spread=math.nan)], id="token ids"),
        pytest.param([module(spread=math.nan)], id="tiny batch"),
        pytest.param([module(spread=0.0, reads_input=False)], id="table of positions"),
        pytest.param([module(spread=0.0, trained=False)], id="frozen"),
        pytest.param(
            [module("net.0"), module("net.1", spread=1e-7, input_spread=1e-7, source="net.0")],
            id="one code of a quantiser for all",
        ),
        pytest.param(
            [module("net.image"), module("net.table", spread=0.0, input_spread=0.0)],
            id="another branch that never differed",
        ),
    ],
)
def test_silent(calls):
    assert not list(ActivationCollapse().on_activations(activations(*calls)))


def tokens(*spreads):
    calls, source, before = [], "", 0.9
    for i, spread in enumerate(spreads):
        call = module(f"net.{i}", positions=spread, input_positions=before, source=source)
        calls.append(call)
        source, before = f"net.{i}", spread
    return activations(*calls)


def test_fires_where_positions_become_one():
    check = ActivationCollapse()
    (finding,) = check.on_activations(tokens(0.4, 3e-2, 3e-5, 1e-7))
    assert finding.message == (
        "net.3 (Linear) gives the same output at every position of a sample (relative spread"
        " 1.0e-07): the layers before it lose a spread of 9.0e-01 one after the other."
    )
    assert finding.where == "net.3 over positions"
    assert "residual connection" in finding.fix
    (again,) = check.on_activations(tokens(0.4, 3e-2, 3e-6, 1e-7))
    assert again.where == finding.where


@pytest.mark.parametrize(
    "spreads",
    [
        pytest.param((0.4, 0.2, 0.1, 0.05), id="still apart"),
        pytest.param((0.9, 0.8, 1e-7, 1e-7), id="pooled at once"),
        pytest.param((0.4, 0.1, 1e-7, 1e-7), id="pooled after some mixing"),
        pytest.param((math.nan, math.nan), id="no positions"),
    ],
)
def test_silent_over_positions(spreads):
    assert not list(ActivationCollapse().on_activations(tokens(*spreads)))
