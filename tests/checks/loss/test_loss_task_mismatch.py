from dataclasses import replace

import pytest

from lightning_debug.checks.loss.loss_task_mismatch import LossTaskMismatch
from lightning_debug.finding import Severity
from lightning_debug.observation import DataEntry, DataFlow, Predictions, Targets
from tests.build_observations import loss_calls


def findings(function, kind, prediction, target, *, check=None, step=20, **changes):
    sides = {"prediction": Predictions(**prediction), "target": Targets(**target)}
    obs = replace(loss_calls(function=function, kind=kind, **sides, **changes), step=step)
    return list((check or LossTaskMismatch()).on_loss_calls(obs))


def regression(prediction, target, **changes):
    prediction = {"shape": (32, 1), "mean": 0.1, "std": 0.8} | prediction
    target = {"shape": (32, 1), "mean": 0.0, "std": 1.0, "low": -2.0, "high": 2.0} | target
    return findings("mse_loss", "regression", prediction, target, **changes)


def classes(prediction=None, target=None, **changes):
    prediction = {"shape": (32, 10)} | (prediction or {})
    return findings("cross_entropy", "logits", prediction, {"shape": (32,)} | (target or {}))


def binary(low, high, function="binary_cross_entropy_with_logits", **changes):
    target = {"shape": (32,), "low": low, "high": high}
    return findings(function, "binary-logits", {"shape": (32,)}, target, **changes)


MULTI_HOT = {"shape": (32, 10), "whole": True, "low": 0.0, "high": 1.0, "several": 0.6}
IDS = {"whole": True, "low": 0.0, "high": 9.0, "distinct": 10, "mean": 4.5, "std": 2.9}


def test_several_true_classes_of_which_the_shares_are_modelled():
    prediction = {"shape": (32, 10)}
    assert findings("cross_entropy", "logits", prediction, MULTI_HOT, spelled=True) == []
    check = LossTaskMismatch()
    list(check.on_data_flow(DataFlow(entries=(DataEntry(place="net.0", target=True),))))
    assert findings("cross_entropy", "logits", prediction, MULTI_HOT, check=check) == []


def test_one_column():
    (finding,) = classes({"shape": (32, 1)})
    assert finding.severity == Severity.ERROR
    assert "one class, whose probability is always 1" in finding.message
    assert "binary_cross_entropy_with_logits" in finding.fix


def test_softmax_over_one_unit():
    (finding,) = regression({"maker": "softmax", "width": 1}, {})
    assert "a softmax over one unit, which is always 1" in finding.message


def test_softmax_over_the_batch():
    target = {"shape": (32,), "whole": True, "per_sample": True, "mean": 0.5}
    (finding,) = classes({"shape": (32,)}, target)
    assert "takes the 32 samples for classes of one sample" in finding.message
    assert classes({"shape": (32,)}, target | {"mean": 1 / 32}) == []
    assert classes({"shape": (32,)}, target | {"whole": False}) == []


def test_several_classes():
    (finding,) = classes({}, MULTI_HOT)
    assert "In 60% of the targets of cross_entropy several classes are true" in finding.message
    assert classes({}, MULTI_HOT | {"several": 0.0}) == []
    assert classes({}, MULTI_HOT | {"made": True}) == []
    assert classes({}, MULTI_HOT | {"whole": False}) == []


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0), (0.0, 9.0)])
def test_outside(low, high):
    (finding,) = binary(low, high)
    assert f"gets targets of {low:.4g} to {high:.4g}" in finding.message
    assert binary(low, high, reduction="none") == []
    assert binary(low, high, weighted=True) == []


def test_inside():
    assert binary(0.0, 1.0) == []
    assert binary(-0.1, 1.2) == []


def test_class_numbers():
    (finding,) = regression({"shape": (32, 10)}, IDS)
    assert "draws all 10 outputs to the number of the class (0 to 9)" in finding.message
    assert regression({"shape": (32, 5)}, IDS) == []
    assert regression({"shape": (32, 10)}, IDS | {"whole": False}) == []
    assert regression({"shape": (32, 10)}, IDS | {"shape": (32, 10)}) == []


def test_class_numbers_are_counted_over_batches():
    check = LossTaskMismatch()
    assert regression({"shape": (32, 10)}, IDS, check=check)
    assert regression({"shape": (32, 10)}, IDS | {"high": 8.0, "distinct": 9}, check=check)
    assert regression({"shape": (32, 9)}, IDS | {"high": 8.0}, check=check) == []


NAMES = IDS | {"ids": True, "clusters": 1.4, "order": -0.1}


def test_numbers_that_are_names():
    (finding,) = regression({}, NAMES)
    assert finding.severity == Severity.WARNING
    assert "lie 1.4 times as close together as others" in finding.message
    assert regression({}, NAMES | {"order": 0.5}) == []  # ratings
    assert regression({}, NAMES | {"clusters": 1.05}) == []
    assert regression({}, NAMES | {"ids": False}) == []
    assert regression({}, NAMES | {"high": 90.0}) == []  # ages
    assert regression({}, NAMES | {"distinct": 2}) == []


def test_out_of_reach():
    (finding,) = regression({"maker": "sigmoid"}, {"beyond": 0.6})
    assert "60% of the targets of mse_loss (-2 to 2) cannot be predicted" in finding.message
    assert "Take the sigmoid off" in finding.fix
    assert regression({"maker": "sigmoid"}, {"beyond": 0.05}) == []
    assert regression({"maker": "sigmoid"}, {"beyond": 0.6, "made": True}) == []
    assert regression({"maker": "sigmoid"}, {"beyond": 0.2, "cost": 0.01}) == []
    assert regression({}, {}) == []


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        ({"mean": 0.1, "std": 0.8}, {"mean": 200.0, "std": 5e4}),
        ({"mean": 0.0, "std": 5e3}, {}),
        ({"mean": 0.0, "std": 0.5}, {"mean": 0.0, "std": 1e-3}),
    ],
)
def test_scales(prediction, target):
    (finding,) = regression(prediction, target)
    assert finding.severity == Severity.WARNING
    assert finding.patience == 12
    assert "training does not bring them together" in finding.message
    assert regression(prediction, target | {"made": True}) == []
    assert regression(prediction, target, resumed=True) == []


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        ({}, {}),
        ({"mean": 0.0, "std": 1e-4}, {}),  # a head that starts at zero
        ({"mean": 5.0, "std": 3.0}, {"mean": 200.0, "std": 70.0}),
        ({"mean": 0.5, "std": 0.3}, {"mean": 200.0, "std": 70.0}),  # it will get there
        ({"mean": 0.0, "std": 0.0}, {"mean": 0.0, "std": 0.0}),
    ],
)
def test_silent_on_scales(prediction, target):
    assert regression(prediction, target) == []


def test_silent_where_predictions_have_grown_away_from_their_targets():
    check = LossTaskMismatch()
    for std in (0.8, 30.0, 400.0):
        assert regression({"mean": 0.0, "std": std}, {}, check=check) == []
