"""What a prediction that knows nothing gets."""

import math

import pytest

from lightning_debug.chance import Standing, chance
from lightning_debug.observation import LossCall, Targets


def call(**changes):
    target = {"shape": (32,), "dtype": "integer", "distinct": 10} | changes.pop("target", {})
    references = {"uniform": 2.303, "prior": 2.16}
    fields = {"function": "cross_entropy", "classes": 10, "references": references}
    return LossCall(**fields | changes, target=Targets(**target))


def test_classes_are_corrected_for_the_size_of_the_batch():
    assert chance(call()) == pytest.approx(2.16 + 9 / 64)
    assert chance(call(target={"shape": (8,)})) == 2.303


def test_targets_are_too():
    regression = {"classes": 0, "references": {"mean": 1.0, "zero": 2.0}}
    assert chance(call(**regression)) == pytest.approx(1 + 1 / 32)
    assert chance(call(classes=0, references={"zero": 2.0})) == 2.0


def test_each_output_with_a_bias_has_a_constant_of_its_own():
    references = {"mean": 1.0, "zero": 2.0, "bias": 0.4}
    assert chance(call(classes=0, references=references)) == 0.4
    assert chance(call(classes=0, references=references | {"bias": 1.4})) < 1.1
    assert chance(call(classes=0, references=references | {"bias": 0.0})) > 1.0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"references": {}}, id="no reference"),
        pytest.param({"references": {"uniform": math.nan}}, id="a loss that takes no constant"),
        pytest.param({"target": {"made": True}}, id="targets of the model"),
        pytest.param({"classes": 32, "target": {"distinct": 32}}, id="samples told apart"),
        pytest.param({"references": {"uniform": 5.5, "prior": 0.003}}, id="one class only"),
        pytest.param(
            {
                "classes": 0,
                "references": {"mean": 1.0},
                "target_mean": 0.01,
                "target_std": 1.01,
                "target": {"shape": (32, 64)},
            },
            id="noise as target",
        ),
    ],
)
def test_not_known(changes):
    assert math.isnan(chance(call(**changes)))


@pytest.mark.parametrize(
    ("values", "coming"),
    [
        ((9.0, 7.0, 5.0, 4.0, 3.0, 2.0), True),
        ((1.9, 2.1, 2.0, 2.0, 2.1, 1.9), False),
        ((1.4, 1.3, 1.2, 1.1, 1.0, 1.0), False),
        ((5.0, 4.0, 3.0, 2.0), False),
    ],
)
def test_a_loss_that_still_comes_down_to_chance(values, coming):
    standing = Standing()
    standing.levels.append(1.1)
    standing.values.extend(values)
    assert standing.coming is coming
