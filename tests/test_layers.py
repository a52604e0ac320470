import math

import pytest

from lightning_debug import layers
from lightning_debug.observation import Activations, ModuleCall, NonlinearCall, RunEnd
from tests.build_updates import gradients, updates


def test_the_gradients_of_a_layer_are_one_number():
    found = layers.of(
        gradients(
            {
                "net.0.weight": {"norm": 3.0},
                "net.0.bias": {"norm": 4.0},
                "net.2.weight": {"norm": 99.0, "present": False},
            }
        )
    )
    assert found == {"gradient-norm": {"net.0": 5.0}}


def test_the_matrix_of_a_layer_speaks_for_its_updates():
    found = layers.of(
        updates(
            {
                "net.0.bias": {"update_rms": 9.0, "fan_in": 0},
                "net.0.weight": {"update_rms": 0.01, "weight_rms": 0.1},
                "net.2.weight": {"weight_rms": 0.0},
            }
        )
    )
    assert found == {"update-ratio": {"net.0": pytest.approx(0.1)}}


def test_activations():
    found = layers.of(
        Activations(
            modules=(
                ModuleCall(place="net.0", rms=2.0, spread=0.5),
                ModuleCall(place="table", rms=1.0, spread=math.nan),
            ),
            nonlinear=(
                NonlinearCall(place="net.1", kind="relu", dead_share=0.25),
                NonlinearCall(place="net.3", kind="tanh", dead_share=0.5),
            ),
        )
    )
    assert found == {
        "activation-rms": {"net.0": 2.0, "table": 1.0},
        "activation-spread": {"net.0": 0.5},
        "dead-share": {"net.1": 0.25},
    }
    assert set(found) < set(layers.METRICS)


def test_of_other_observations_there_is_nothing():
    assert layers.of(RunEnd()) == {}
