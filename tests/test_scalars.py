import math

import pytest

from lightning_debug import scalars
from lightning_debug.observation import (
    Activations,
    Clipping,
    GradientNoise,
    ModuleCall,
    NonlinearCall,
    RunEnd,
)
from tests.build_updates import gradients, updates


def test_gradient_norms_by_group():
    obs = gradients(
        {
            "encoder.0.weight": {"norm": 3.0},
            "encoder.1.weight": {"norm": 4.0},
            "head.weight": {"norm": 12.0},
            "spare.weight": {"norm": 99.0, "present": False},
        }
    )
    assert scalars.of(obs) == {
        "gradient-norm": 13.0,
        "gradient-norm/encoder": 5.0,
        "gradient-norm/head": 12.0,
    }


def test_a_model_in_one_attribute_is_told_apart_one_level_down():
    obs = gradients({"net.0.weight": {"norm": 3.0}, "net.2.weight": {"norm": 4.0}})
    assert set(scalars.of(obs)) == {"gradient-norm", "gradient-norm/net.0", "gradient-norm/net.2"}


def test_update_ratios_of_weights():
    obs = updates(
        {
            "a.weight": {"update_rms": 0.01, "weight_rms": 0.1},
            "b.weight": {"update_rms": 0.02, "weight_rms": 0.1},
            "b.bias": {"update_rms": 9.0, "fan_in": 0},
            "c.weight": {"weight_rms": 0.0},
        }
    )
    assert scalars.of(obs) == {
        "learning-rate/Adam": 1e-3,
        "update-ratio/a": pytest.approx(0.1),
        "update-ratio/b": pytest.approx(0.2),
    }


def test_what_clipping_left_of_the_gradients():
    assert scalars.of(Clipping(optimizer="SGD", before=4.0, after=1.0)) == {"clip-factor/SGD": 0.25}
    assert scalars.of(Clipping(optimizer="SGD", before=0.0, after=0.0)) == {}


def test_the_gradient_noise_scale():
    assert scalars.of(GradientNoise(scale=12.0)) == {"noise-scale": 12.0}
    assert scalars.of(GradientNoise(skipped="one sample")) == {}


def test_activations():
    obs = Activations(
        modules=(
            ModuleCall(place="a.0", parametric=True, rms=2.0, spread=0.5),
            ModuleCall(place="b.0", spread=math.nan),
        ),
        nonlinear=(
            NonlinearCall(place="a.0 > relu", kind="relu", dead_share=0.25),
            NonlinearCall(place="b.1", kind="tanh"),
        ),
    )
    found = scalars.of(obs)
    assert {name.split("/")[0] for name in found} == {
        "activation-spread",
        "activation-rms",
        "dead-share",
    }
    assert sorted(found.values()) == [0.25, 0.5, 2.0]


def test_no_more_groups_than_a_plot_can_show():
    obs = gradients({f"layer{i}.weight": {} for i in range(200)})
    assert len(scalars.of(obs)) == scalars.GROUPS + 1


def test_other_kinds_have_none():
    assert scalars.of(RunEnd()) == {}
