import json
import math

import pytest

from lightning_debug.report.curves import curves, experiment_curves, marked_steps
from tests.build import finding
from tests.report.build import experiment, look, stored


def curve(run, name):
    return next(chart for chart in curves(run) if chart.id == name)


def with_losses(*losses):
    return stored(stats=[look(0, losses=tuple(enumerate(losses)))])


def test_what_was_measured_has_a_chart():
    ids = [chart.id for chart in curves(stored())]
    assert ids == ["loss", "gradient-norm", "learning-rate", "clip-factor", "noise-scale"]


def test_nothing_measured_no_chart():
    assert curves(stored(stats=[])) == []


def test_the_loss_in_words():
    chart = curve(with_losses(2.0, 4.0, 0.5, 1.0), "loss")
    assert chart.text == "2 at step 0, 1 at step 3; lowest 0.5 at step 2, highest 4 at step 1."


def test_a_nan_in_the_loss_is_said_and_is_a_gap():
    chart = curve(with_losses(2.0, math.nan, math.inf, 1.0), "loss")
    assert "2 values are NaN or infinite, the first at step 1: drawn as a gap." in chart.text
    assert chart.series[0][1] == [[0, 2.0], [1, None], [2, None], [3, 1.0]]


def test_a_loss_that_is_never_a_number():
    assert curve(with_losses(math.nan), "loss").text.startswith("No value is a finite number.")


def test_the_smooth_line_leaves_gaps_out():
    losses = [1.0, 3.0] * 100
    losses[50] = math.nan
    name, line = curve(with_losses(*losses), "loss").series[1]
    assert name == "mean of the steps around it"
    assert all(1.5 < y < 2.5 for _, y in line)


def test_a_short_loss_is_not_smoothed():
    assert len(curve(with_losses(1.0, 2.0), "loss").series) == 1


def test_a_long_loss_is_bounded():
    losses = [math.sin(i) + 2 for i in range(50_000)]
    losses[31_415] = 100.0
    chart = curve(with_losses(*losses), "loss")
    assert len(chart.series[0][1]) <= 2000
    assert [31_415, 100.0] in chart.series[0][1]


def test_logarithmic_where_it_spans_decades():
    assert curve(with_losses(1000.0, 1.0), "loss").log is True
    assert curve(with_losses(2.0, 1.0), "loss").log is False
    assert curve(with_losses(2.0, 0.0), "loss").log is None


def test_findings_are_marked_by_the_step_they_were_first_seen_at():
    seen = [finding(name="b", step=7), finding(name="a", step=3), finding(name="c", step=7)]
    run = stored(findings=seen)
    assert marked_steps(run) == [(3, ["a"]), (7, ["b", "c"])]
    assert curve(run, "loss").marks == [(3, "1"), (7, "2")]


def test_epochs_are_marked_but_not_the_first():
    looks = [look(step, epoch=step // 10) for step in (0, 5, 10, 20, 25)]
    assert curve(stored(stats=looks), "loss").epochs == [10, 20]


def test_each_optimizer_has_a_line_and_many_are_bounded():
    rates = {f"learning-rate/{i}": 0.1 for i in range(20)}
    chart = curve(stored(stats=[look(0, scalars=rates)]), "learning-rate")
    assert [name for name, _ in chart.series] == list("01234567")
    assert "12 more lines are not drawn." in chart.text


def test_the_gradient_norm_is_that_of_the_whole():
    scalars = {"gradient-norm": 2.0, "gradient-norm/encoder": 1.0}
    chart = curve(stored(stats=[look(0, scalars=scalars)]), "gradient-norm")
    assert [line for _, line in chart.series] == [[[0, 2.0]]]


def test_experiments_that_trained_have_a_curve():
    run = stored(experiments=[experiment(curve=()), experiment(curve=(2.0, math.nan, 1.0))])
    (index, chart), *others = experiment_curves(run).items()
    assert (index, chart.id, others) == (1, "experiment-1", [])
    assert chart.series[0][1] == [[0, 2.0], [1, None], [2, 1.0]]


def test_the_data_is_strict_json():
    run = with_losses(math.inf, -math.inf, math.nan)
    text = json.dumps([chart.as_data() for chart in curves(run)], allow_nan=False)
    assert json.loads(text)[0]["title"] == "Loss"


@pytest.mark.filterwarnings("error")
def test_losses_at_the_ends_of_what_a_float_can_be():
    chart = curve(with_losses(*[1e308, -1e308, 5e-324, 1e308] * 20), "loss")
    assert chart.series[0][1][0] == [0, 1e308]
    json.dumps(chart.as_data(), allow_nan=False)
