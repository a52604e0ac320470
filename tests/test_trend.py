import math

import pytest

from lightning_debug.observation import Gradients, ParameterGradient
from lightning_debug.trend import relative_gradients, trend
from tests.build_updates import gradients


def test_measures_powers_of_ten_along_the_line():
    line = trend([1e-3, 1e-2, 1e-1, 1.0])
    assert line is not None
    assert line.rise == pytest.approx(3.0)
    assert line.correlation == pytest.approx(1.0)


def test_falls_below_zero():
    line = trend([1.0, 1e-2, 1e-4])
    assert line is not None
    assert (line.rise, line.correlation) == (pytest.approx(-4.0), pytest.approx(-1.0))


def test_one_outlier_is_no_trend():
    line = trend([1e-6, *[1.0] * 9])
    assert line is not None
    assert line.correlation < 0.6


def test_flat_is_flat():
    line = trend([0.5] * 4)
    assert line is not None
    assert (line.rise, line.correlation) == (0.0, 0.0)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="empty"),
        pytest.param([1.0, 2.0], id="two points"),
        pytest.param([1.0, 0.0, 1.0], id="zero"),
        pytest.param([1.0, -1.0, 1.0], id="negative"),
        pytest.param([1.0, math.nan, 1.0], id="not a number"),
        pytest.param([1.0, math.inf, 1.0], id="infinite"),
    ],
)
def test_no_line(values):
    assert trend(values) is None


def test_relative_gradients_are_those_of_weight_matrices_in_order_of_execution():
    obs = gradients(
        {
            "late": {"order": 5, "rms": 3.0, "weight_rms": 2.0},
            "early": {"order": 1, "rms": 1.0, "weight_rms": 2.0},
            "bias": {"order": 1, "dims": 1},
            "idle": {"order": -1},
            "none": {"present": False},
            "zero": {"largest": 0.0},
            "fresh": {"weight_rms": 0.0},
            "broken": {"rms": math.nan},
        }
    )
    assert list(relative_gradients(obs).items()) == [("early", 0.5), ("late", 1.5)]


def test_of_several_heads_the_loudest_counts_as_the_last():
    obs = Gradients(
        optimizer="Adam",
        parameters={
            "quiet": ParameterGradient(order=2, rms=1e-6, end=True),
            "loud": ParameterGradient(order=1, rms=0.1, end=True),
            "trunk": ParameterGradient(order=0, rms=0.01),
        },
    )
    assert relative_gradients(obs) == {"trunk": 0.01, "loud": 0.1}
    assert list(relative_gradients(obs)) == ["trunk", "loud"]


def test_a_weight_that_started_at_zero_is_not_the_measure():
    obs = Gradients(
        optimizer="Adam",
        parameters={
            "early": ParameterGradient(order=0, rms=1e-3),
            "late": ParameterGradient(order=1, rms=1e-3),
            "zero": ParameterGradient(order=2, rms=1e-3, weight_rms=1e-9),
        },
    )
    assert relative_gradients(obs) == {"early": 1e-3, "late": 1e-3, "zero": pytest.approx(1e-2)}
