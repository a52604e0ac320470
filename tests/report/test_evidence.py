import math

import pytest

from lightning_debug.registry import all_checks
from lightning_debug.report.evidence import BARS, COURSES, MOST_POINTS, NO_COURSE, evidence
from tests.build import finding
from tests.report.build import LAYERS, experiment, look, stored


def plot(run, **changes):
    return evidence(run, finding(**changes), "finding-1-plot").chart


def names(chart):
    return [series["name"] for series in chart["series"]]


def test_tables_name_only_findings_and_no_course_twice():
    named = [name for findings in COURSES.values() for name in findings]
    assert {*named, *BARS} <= set(all_checks())
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("name", all_checks())
def test_every_finding_has_a_plot_or_a_reason(name):
    numbers = dict.fromkeys(BARS.get(name, ("share",)), 0.5)
    told = evidence(stored(), finding(name=name, where="net.0", evidence=numbers), "finding-1-plot")
    assert told.chart or told.reason
    if told.chart:
        assert told.chart["id"] == "finding-1-plot"
        assert told.chart["kind"] in ("lines", "bars")
        points = [y for series in told.chart["series"] for _, y in series["points"]]
        assert any(y is not None for y in points)


@pytest.mark.parametrize("name", sorted(all_checks()))
def test_a_run_without_numbers_says_so(name):
    told = evidence(stored(stats=[], experiments=[]), finding(name=name), "x")
    assert told.chart == {}
    assert told.reason


def test_layers_at_the_place_beside_the_median():
    layers = {"gradient-norm": {"net.0": 4.0, "net.1": 1.0, "net.2": 2.0}}
    run = stored(stats=[look(0, layers=layers)])
    chart = plot(run, name="vanishing-gradient", where="net.0", places=("net.0.weight",))
    assert names(chart) == ["net.0", "median of the other layers"]
    assert chart["series"][0]["points"][0] == [0, 4.0]
    assert chart["series"][1]["points"][0] == [0, 1.5]
    assert chart["marks"] == [{"x": 12, "label": "first seen"}]


def test_a_container_stands_for_the_layers_in_it():
    assert names(plot(stored(), name="vanishing-gradient", where="net")) == list(LAYERS)


def test_a_name_that_only_begins_alike_is_another_layer():
    stats = [look(0, layers={"gradient-norm": {"net.1": 1.0, "net.10": 2.0}})]
    chart = plot(stored(stats=stats), name="zero-gradient", where="net.1")
    assert names(chart) == ["net.1", "median of the other layers"]


def test_the_loss_with_its_reference():
    chart = plot(
        stored(),
        name="initial-loss",
        where="training_step",
        evidence={"reference": 2.3, "loss": 9.0},
    )
    assert chart["series"][0]["points"][:2] == [[0, 2.0], [1, 1.0]]
    assert chart["limits"] == [{"y": 2.3, "label": "reference"}]


def test_the_learning_rate_of_each_optimizer():
    stats = [look(s, scalars={"learning-rate/SGD": 0.1, "learning-rate/Adam": 0.2}) for s in (0, 1)]
    assert names(plot(stored(stats=stats), name="no-scheduler")) == ["SGD", "Adam"]


def test_the_copy_that_a_finding_was_told_from():
    run = stored(experiments=[experiment(findings=("cannot-overfit-batch",))])
    chart = plot(run, name="cannot-overfit-batch")
    assert chart["title"] == "Experiment: one or two samples by heart"
    assert chart["series"][0]["points"] == [[0, 2.0], [1, 1.0], [2, 0.5]]


def test_numbers_of_one_unit_as_bars():
    chart = plot(stored(), name="worse-than-baseline", evidence={"model": 2.0, "baseline": 1.5})
    assert chart["kind"] == "bars"
    assert chart["series"][0]["points"] == [["the model", 2.0], ["the best simple model", 1.5]]
    assert chart["limits"] == []


def test_one_number_alone_is_no_plot():
    assert plot(stored(), name="worse-than-baseline", evidence={"model": 2.0}) == {}


def test_a_share_beside_the_whole():
    chart = plot(stored(), name="padding-in-loss", evidence={"share": 0.75})
    assert chart["series"][0]["points"] == [["share", 0.75]]
    assert chart["limits"] == [{"y": 1.0, "label": "all"}]


def test_what_is_no_number_is_no_bar():
    numbers = {"model": math.nan, "baseline": "none", "constant": math.inf}
    told = evidence(stored(), finding(name="worse-than-baseline", evidence=numbers), "x")
    assert told.chart == {}
    assert told.reason == NO_COURSE


def test_not_finite_values_are_gaps():
    stats = [look(s, losses=((s, value),)) for s, value in enumerate((1.0, math.nan, math.inf))]
    chart = plot(stored(stats=stats), name="non-finite-loss")
    assert chart["series"][0]["points"] == [[0, 1.0], [1, None], [2, None]]


def test_a_long_run_keeps_its_peak_and_is_bounded():
    losses = [(step, 1.0) for step in range(50_000)]
    losses[31_234] = (31_234, 99.0)
    chart = plot(stored(stats=[look(0, losses=tuple(losses))]), name="loss-diverging")
    points = chart["series"][0]["points"]
    assert len(points) <= MOST_POINTS
    assert [31_234, 99.0] in points


def test_many_places_are_a_few_lines():
    layers = {"gradient-norm": {f"net.{i}": 1.0 for i in range(500)}}
    places = tuple(layers["gradient-norm"])
    chart = plot(stored(stats=[look(0, layers=layers)]), name="zero-gradient", places=places)
    assert len(chart["series"]) == 6
