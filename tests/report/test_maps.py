import base64
import math

import numpy as np
import pytest

from lightning_debug.report.maps import HIGHEST, LOWEST, MISSING, NOT_FINITE, ZERO, maps
from tests.build import finding
from tests.report.build import look, stored


def layers(*looks, metric="gradient-norm", findings=()):
    """Return the map of a metric, from a mapping of layers to numbers for each look."""
    stats = [look(step, layers={metric: values}) for step, values in enumerate(looks)]
    (drawn,) = maps(stored(stats=stats, findings=list(findings)))
    return drawn


def cells(drawn):
    return [np.frombuffer(base64.b64decode(row), "<u2").tolist() for row in drawn.rows]


def values(drawn, row):
    """Return the numbers that the script reads from a row."""
    shares = (np.array(cells(drawn)[row]) - LOWEST) / (HIGHEST - LOWEST)
    if drawn.log:
        return drawn.low * (drawn.high / drawn.low) ** shares
    return drawn.low + shares * (drawn.high - drawn.low)


def test_each_metric_has_a_map():
    ids = [drawn.id for drawn in maps(stored())]
    assert ids[:2] == ["gradient-norm", "update-ratio"]
    assert set(ids[2:]) == {"activation-rms", "activation-spread", "dead-share"}


def test_nothing_measured_no_map():
    assert maps(stored(stats=[])) == []
    assert maps(stored(stats=[look(0, layers={"gradient-norm": {}})])) == []


def test_the_last_look_in_words():
    drawn = layers({"a": 1.0, "b": 1.0}, {"a": 0.25, "b": 4.0})
    assert drawn.text == (
        "At step 1 the largest is b (4), the smallest a (0.25). 2 layers, 2 looks."
    )


@pytest.mark.parametrize("numbers", [(1.0, 2.0, 3.5), (1e-9, 3e-4, 20.0)])
def test_numbers_come_back(numbers):
    drawn = layers(*({"a": number} for number in numbers))
    assert values(drawn, 0) == pytest.approx(numbers, rel=1e-3)


def test_decades_are_drawn_by_the_logarithm():
    assert layers({"a": 1e-6, "b": 1.0}).log
    assert not layers({"a": 1.0, "b": 2.0}).log
    assert not layers({"a": 1e-6, "b": 1.0}, metric="dead-share").log


def test_zero_missing_and_not_finite_are_told_apart():
    drawn = layers({"a": 0.0, "b": math.nan}, {"a": 1e-3, "c": 1.0}, {"a": 10.0, "c": math.inf})
    assert drawn.layers == ["a", "b", "c"]
    assert cells(drawn)[0][0] == ZERO
    assert cells(drawn)[1] == [NOT_FINITE, MISSING, MISSING]
    assert cells(drawn)[2][0] == MISSING
    assert cells(drawn)[2][2] == NOT_FINITE
    assert "2 of the layers had a number that is NaN or infinite" in drawn.text


def test_nothing_but_nan():
    assert cells(layers({"a": math.nan})) == [[NOT_FINITE]]


def test_one_number_for_all():
    assert cells(layers({"a": 2.0}, {"a": 2.0})) == [[LOWEST, LOWEST]]


def test_many_looks_share_columns_and_peaks_survive():
    looks = [{"a": 1.0} for _ in range(1000)]
    looks[501], looks[777] = {"a": 1e6}, {"a": math.nan}
    drawn = layers(*looks)
    assert len(drawn.steps) <= 160
    assert max(values(drawn, 0)[np.array(cells(drawn)[0]) != NOT_FINITE]) == pytest.approx(1e6)
    assert NOT_FINITE in cells(drawn)[0]
    assert "A column is the most unusual of 7 looks." in drawn.text


def test_many_layers_are_chosen_but_those_of_findings_stay():
    told = finding(where="layer.1234.weight", places=("layer.17",))
    drawn = layers({f"layer.{i}": 1.0 for i in range(2000)}, findings=[told])
    assert len(drawn.layers) <= 160
    assert {"layer.0", "layer.17", "layer.1234", "layer.1999"} <= set(drawn.layers)
    assert drawn.layers == sorted(drawn.layers, key=lambda name: int(name.split(".")[1]))
    assert "Of 2000 layers, 160 are drawn" in drawn.text


def test_it_stays_small():
    looks = [{f"layer.{i}": float(i * step) for i in range(200)} for step in range(400)]
    assert sum(map(len, layers(*looks).rows)) < 80_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["gradient-norm", "dead-share"])
def test_numbers_at_the_ends_of_what_a_float_can_be(metric):
    numbers = {"a": 1e308, "b": -1e308, "c": 5e-324, "d": 0.0}
    drawn = layers(numbers, metric=metric)
    assert all(LOWEST <= level <= HIGHEST for (level,) in cells(drawn))
