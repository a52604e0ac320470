"""Metrics that are functions, heard while they are called."""

import sys

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from torchmetrics.classification import BinaryF1Score
from torchmetrics.functional import classification, f1_score, pairwise_cosine_similarity, r2_score

from lightning_debug.taps.metric_functions import MetricFunctionTap

PREDICTED = torch.tensor([1, 0, 0, 0, 1, 1, 1, 1])
TARGET = torch.tensor([1, 1, 0, 0, 1, 1, 0, 1])


def passes(step, model=None, batches=4, after=lambda: None):
    """Return what is known of the functions that ``step`` calls for two samples at a time."""
    tap = MetricFunctionTap(model or nn.Identity(), pytest.fail)
    tap.begin()
    for start in range(0, 2 * batches, 2):
        tap.batch(TARGET[start : start + 2])
        step(PREDICTED[start : start + 2], TARGET[start : start + 2])
        tap.pause()
        after()
    return tap.end()


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        pytest.param(lambda p, y: f1_score(p, y, task="binary"), "f1_score", id="dispatcher"),
        pytest.param(classification.binary_f1_score, "binary_f1_score", id="function"),
        pytest.param(
            lambda p, y: classification.binary_f1_score(target=y, preds=p.clone().zero_().add_(p)),
            "binary_f1_score",
            id="by name",
        ),
        pytest.param(
            lambda p, y: metrics.f1_score(y.numpy(), p.tolist(), zero_division=0.0),
            "f1_score",
            id="scikit-learn",
        ),
    ],
)
def test_holds_a_mean_against_the_whole(function, kind):
    values = []
    (found,) = passes(lambda p, y: values.append(float(function(p, y))))
    assert (found.kind, found.function, found.batches, found.batch_size) == (kind, True, 4, 2)
    assert found.batch_mean == pytest.approx(np.mean(values), abs=1e-6)
    assert found.whole == pytest.approx(metrics.f1_score(TARGET, PREDICTED))
    assert found.whole != pytest.approx(found.batch_mean, abs=0.02)


def f1_of_one(p, y):
    return f1_score(p, y, task="binary")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda p, y: [f1_of_one(p[:1], y[:1]), f1_of_one(p[1:], y[1:])], id="twice"),
        pytest.param(lambda p, y: BinaryF1Score()(p, y), id="an object"),
        pytest.param(
            lambda p, y: classification.multiclass_f1_score(p, y, num_classes=2, average="none"),
            id="several numbers",
        ),
        pytest.param(
            lambda p, y: classification.binary_fbeta_score(p, y, beta=1.0 + float(y.sum())),
            id="other settings",
        ),
        pytest.param(
            lambda p, y: metrics.f1_score(y, p, labels=np.arange(2), zero_division=0.0),
            id="a setting that may be samples",
        ),
        pytest.param(
            lambda p, y: pairwise_cosine_similarity(p[None] + 0.5, y[None] + 0.5), id="others"
        ),
        pytest.param(lambda p, y: p.float().mean(), id="none"),
    ],
)
def test_leaves_alone(step):
    assert passes(step) == ()


def test_leaves_alone_what_is_not_called_for_each_batch():
    assert passes(lambda p, y: f1_of_one(p, y) if p[0] else None) == ()


def test_does_not_know_what_cannot_be_joined():
    def step(p, y):
        outputs = 1 + int(y.sum()) % 2
        values = torch.randn(2, outputs), torch.randn(2, outputs)
        return r2_score(*values)

    (found,) = passes(step)
    assert np.isnan(found.whole)


def test_asks_no_more_where_there_is_no_metric():
    heard = []

    def step(p, y):
        heard.append(sys.getprofile() is not None)

    passes(step)
    assert heard == [True, True, False, False]
    assert sys.getprofile() is None


def test_leaves_a_profiler_alone():
    def profiler(frame, event, argument):
        """Somebody else's."""

    sys.setprofile(profiler)
    try:
        assert passes(lambda p, y: f1_of_one(p, y)) == ()
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_leaves_compiled_models_alone():
    model = nn.Linear(2, 2)
    model.compile()
    assert passes(f1_of_one, model) == ()


def test_contains_its_own_failure(monkeypatch):
    failures = []
    tap = MetricFunctionTap(nn.Identity(), failures.append)
    monkeypatch.setattr(tap, "_note", lambda *_: 1 / 0)
    tap.begin()
    tap.batch(TARGET)
    assert float(f1_of_one(PREDICTED, TARGET)) > 0.0
    assert sys.getprofile() is None
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
    assert tap.end() == ()
