"""Metrics that report something else than their name says."""

import math

import pytest

from lightning_debug.checks import MetricMisuse
from lightning_debug.observation import MetricPass, Threshold, Tracking


def told(use=None, *, logged=0.8, thresholds=()):
    """Return what the check says of one pass."""
    uses = (MetricPass(place="f1", kind="BinaryF1Score", **use),) if use else ()
    obs = Tracking(metrics={"val_f1": logged}, uses=uses, thresholds=thresholds)
    return list(MetricMisuse().on_tracking(obs))


KEPT = {"before": 10, "updates": 20, "value": 0.8}
MEAN = {"batches": 10, "batch_mean": 0.8, "weighted_mean": 0.81, "whole": 0.7, "batch_size": 32}


def test_fires_where_it_is_not_reset():
    (finding,) = told(KEPT)
    assert finding.message == (
        "val_f1 = 0.8 is the value of f1 (BinaryF1Score) over 20 batches, of which 10 are from"
        " before this pass over the validation data: it is not reset."
    )
    assert "self.f1.reset()" in finding.fix


EACH = {"before": 10, "updates": 20, "values": (0.9, 0.5, 1.0)}


@pytest.mark.parametrize(
    "logged",
    [{"val_0": 0.9, "val_1": 0.5, "val_2": 1.0}, {"val_0": 0.8}],
    ids=["all", "their mean"],
)
def test_fires_where_one_of_several_values_is_not_reset(logged):
    use = MetricPass(place="f1", **EACH)
    check, obs = MetricMisuse(), Tracking(metrics=logged, uses=(use,))
    assert list(check.on_tracking(obs)) == []  # once may be by chance
    (finding,) = check.on_tracking(obs)
    assert f"val_0 = {logged['val_0']} is the value of f1" in finding.message
    assert finding.fix == "Call self.f1.reset() after compute(). Use one object for each stage."


def test_fires_on_a_mean_over_batches():
    (finding,) = told(MEAN)
    assert finding.message == (
        "val_f1 = 0.8 is the mean of BinaryF1Score over 10 batches; over all of them together it"
        " is 0.7."
    )


def test_says_what_to_do_about_a_function():
    (finding,) = told(MEAN | {"function": True})
    assert "Use a metric object in place of BinaryF1Score" in finding.fix


@pytest.mark.parametrize(
    ("function", "value", "logits", "words"),
    [
        ("gt", 0.5, True, "compared with 0.5"),
        ("round", 0.5, True, "rounded"),
        ("gt", 0.0, False, "every sample"),
    ],
)
def test_fires_on_thresholds(function, value, logits, words):
    made = Threshold(place="training_step", function=function, value=value, logits=logits)
    assert told(thresholds=(made,)) == []  # once may be a plot
    (finding,) = told(thresholds=(made, made))
    assert words in finding.message


@pytest.mark.parametrize(
    ("logits", "largest", "what", "words"),
    [
        (True, True, "The largest logits are compared", "torch.max(logits, 1) returns the values"),
        (False, False, "The probabilities are compared", "(logits > 0) == y.bool()"),
    ],
)
def test_fires_on_predictions_that_are_no_classes(logits, largest, what, words):
    made = Threshold(
        place="validation_step", function="eq", value=math.nan, logits=logits, largest=largest
    )
    assert told(thresholds=(made,)) == []
    (finding,) = told(thresholds=(made, made))
    assert what in finding.message
    assert words in finding.fix


@pytest.mark.parametrize(
    ("use", "logged"),
    [
        pytest.param(KEPT | {"before": 0}, 0.8, id="reset"),
        pytest.param(KEPT | {"updates": 11}, 0.8, id="once an epoch: best so far"),
        pytest.param(KEPT | {"single": True}, 0.8, id="a counter"),
        pytest.param(KEPT, 0.7, id="not what is reported"),
        pytest.param(KEPT | {"value": 1.0}, 1.0, id="perfect anyway"),
        pytest.param(EACH, 0.9, id="one of several, by chance"),
        pytest.param(EACH | {"values": (1.0, 1.0)}, 1.0, id="all perfect anyway"),
        pytest.param(EACH | {"before": 0}, 0.8, id="several, reset"),
        pytest.param(MEAN | {"whole": 0.79}, 0.8, id="nearly right"),
        pytest.param(MEAN, 0.7, id="the right value is logged"),
        pytest.param(MEAN | {"batch_size": 1}, 0.8, id="single samples"),
    ],
)
def test_silent(use, logged):
    assert told(use, logged=logged) == []
    obs = Tracking(
        metrics={"val_f1": logged}, uses=(MetricPass(place="f1", kind="BinaryF1Score", **use),)
    )
    check = MetricMisuse()
    assert [f for _ in range(3) for f in check.on_tracking(obs)] == []


@pytest.mark.parametrize(("value", "logits"), [(0.0, True), (0.5, False), (0.3, False)])
def test_silent_on_thresholds(value, logits):
    made = Threshold(place="training_step", function="gt", value=value, logits=logits)
    assert told(thresholds=(made, made)) == []
