import math

import pytest

from lightning_debug.ratios import by_group
from tests.build_updates import updates


def test_median_over_the_matrices_of_a_group():
    obs = updates(
        {
            "a": {"update_rms": 0.1, "lr": 0.5},
            "b": {"update_rms": 0.3, "lr": 0.5},
            "c": {"update_rms": 0.2, "lr": 0.5},
        }
    )
    [(name, ratios)] = by_group(obs).items()
    assert name == "Adam"
    assert (ratios.median, ratios.extreme, ratios.count, ratios.lr) == (0.2, "b", 3, 0.5)


def test_names_groups_where_there_are_several():
    obs = updates({"a": {"group": 0}, "b": {"group": 2}})
    assert list(by_group(obs)) == ["Adam group 0", "Adam group 2"]


def test_small_weights_are_held_against_a_usual_initial_size():
    obs = updates({"a": {"update_rms": 0.01, "weight_rms": 1e-9, "fan_in": 100}})
    assert by_group(obs)["Adam"].median == pytest.approx(0.01 / (0.5 / math.sqrt(100)))


def test_holds_against_other_sizes():
    obs = updates({"a": {"update_rms": 1.0, "weight_rms": 100.0}})
    assert by_group(obs)["Adam"].median == pytest.approx(0.01)
    assert by_group(obs, {"a": 2.0})["Adam"].median == pytest.approx(0.5)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"fan_in": 0}, id="a bias"),
        pytest.param({"trainable": False}, id="frozen"),
        pytest.param({"update_rms": math.nan}, id="not a number"),
        pytest.param({"update_rms": math.inf}, id="infinite"),
    ],
)
def test_leaves_out(change):
    assert by_group(updates({"a": change})) == {}
