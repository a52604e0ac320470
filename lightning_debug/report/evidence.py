"""Which plot belongs to a finding: the numbers that it was told from, as curves or as bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lightning_debug.finding import Finding
from lightning_debug.layers import METRICS
from lightning_debug.report.rendering import sentence
from lightning_debug.report.thinning import evenly, points
from lightning_debug.stored_run import StoredRun

MOST_LINES = 6
MOST_POINTS = 200
Course = list[tuple[int, float]]

# By what is drawn over the steps: the findings that it is drawn for.
COURSES: Mapping[str, tuple[str, ...]] = {
    "gradient-norm": (
        "accumulation-not-scaled",
        "bias-before-norm",
        "exploding-gradient",
        "gradients-not-cleared",
        "no-gradient",
        "non-finite-gradient",
        "symmetric-init",
        "vanishing-gradient",
        "zero-gradient",
    ),
    "update-ratio": (
        "adam-with-l2",
        "parameter-not-optimized",
        "precision-underflow",
        "tied-weights-lost",
        "update-too-large",
        "update-too-small",
        "weight-decay-on-norm",
        "weights-not-updated",
    ),
    "activation-rms": (
        "activation-scale",
        "attention-mask",
        "dropout-before-batch-norm",
        "non-finite-activation",
        "saturated-activation",
        "weight-init-scale",
    ),
    "activation-spread": ("activation-collapse",),
    "dead-share": ("dead-relu",),
    "loss": (
        "batch-norm-stale-stats",
        "data-not-shuffled",
        "initial-loss",
        "loss-diverging",
        "loss-not-decreasing",
        "loss-reduction",
        "non-finite-loss",
    ),
    "learning-rate": (
        "learning-rate-too-high",
        "learning-rate-too-low",
        "no-scheduler",
        "scheduler-misconfigured",
    ),
    "clip-factor": ("clipping-missing", "clipping-too-tight"),
    "noise-scale": ("batch-size-too-large",),
}
# Numbers of a finding's evidence that are in one unit, with their labels: drawn as bars.
_RANGE = {"low": "smallest output", "high": "largest output"}
_RATES = {"start": "loss before", "end": "loss after", "better": "loss at the better rate"}
BARS: Mapping[str, Mapping[str, str]] = {
    "class-imbalance": {
        "majority": "largest class",
        "rare": "rarest class",
        "recall": "found of the rarest",
    },
    "clipping-too-tight": {"before": "norm before", "after": "norm after", "limit": "limit"},
    "labels-unrelated": {
        "train": "training loss",
        "unseen": "loss on unseen samples",
        "chance": "loss at chance",
    },
    "learning-rate-too-high": _RATES,
    "learning-rate-too-low": _RATES,
    "loss-task-mismatch": {"low": "smallest target", "high": "largest target"},
    "metric-misuse": {"mean": "mean over batches", "whole": "over all samples"},
    "not-log-probabilities": _RANGE,
    "overfitting": {
        "best": "lowest validation loss",
        "last": "validation loss now",
        "train_then": "training loss then",
        "train_now": "training loss now",
    },
    "probabilities-as-logits": _RANGE,
    "regularization-dominates": {
        "data": "of the data",
        "decay": "of weight decay",
        "penalty": "of the penalty",
        "start": "loss before",
        "end": "loss after",
        "undecayed": "loss without decay",
    },
    "worse-than-baseline": {
        "model": "the model",
        "baseline": "the best simple model",
        "constant": "a constant",
    },
    "wrong-gradient": {"analytic": "by backward", "numeric": "by finite differences"},
}
# Numbers of a finding's evidence that are in the unit of its plot, drawn as lines across it.
LIMITS: Mapping[str, tuple[str, ...]] = {
    "loss": ("reference",),
    "noise-scale": ("batch_size", "batch"),
}
# What is drawn, where its name does not say it.
MEANINGS: Mapping[str, str] = {
    **METRICS,
    "clip-factor": "size of the gradient after clipping over its size before",
    "noise-scale": "batch size at which noise and gradient are of one size",
}
NO_COURSE = "It is a fact about the program, and not about the course of its numbers."
NO_NUMBERS = "The run holds no numbers for it."


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is drawn for a finding.

    Attributes:
        chart: As the scripts of the report read it; empty where nothing is drawn.
        reason: Why nothing is drawn.
    """

    chart: Mapping[str, Any]
    reason: str = ""


def evidence(run: StoredRun, finding: Finding, name: str) -> Evidence:
    """Return the plot of a finding, under a name of its own, or why there is none."""
    makers: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: _trained_copy(run, finding),
        lambda: _bars(finding, BARS.get(finding.name, {})),
        lambda: _course(run, finding),
        lambda: _bars(finding, {"share": "share"}, whole=True),
    )
    for make in makers:
        if chart := make():
            return Evidence(chart={"id": name} | chart)
    course = COURSE_OF.get(finding.name)
    return Evidence(chart={}, reason=NO_NUMBERS if course else NO_COURSE)


COURSE_OF = {finding: course for course, findings in COURSES.items() for finding in findings}


def _trained_copy(run: StoredRun, finding: Finding) -> dict[str, Any]:
    """Return the losses of the copy of the model that the finding was told from."""
    for experiment in run.experiments:
        if finding.name in experiment.findings and len(experiment.curve) > 1:
            series = [("loss of the copy", list(enumerate(experiment.curve)))]
            title = f"Experiment: {experiment.name}"
            return _lines(title, "step of the copy", "loss", series)
    return {}


def _course(run: StoredRun, finding: Finding) -> dict[str, Any]:
    """Return what the finding was told from over the steps of the run."""
    course = COURSE_OF.get(finding.name, "")
    if course in METRICS:
        series = _layers(run, course, finding.places or (finding.where,))
    elif course == "loss":
        series = [("training loss", [p for look in run.stats for p in look.losses])]
    else:
        series = _scalars(run, course)
    series = [(name, course) for name, course in series if _drawable(course)]
    if not course or not series:
        return {}
    name = course.replace("-", " ")
    meaning = MEANINGS.get(course, "over the run")
    return _lines(f"{sentence(name)}: {meaning}", "step", name, series) | {
        "marks": [{"x": finding.step, "label": "first seen"}],
        "limits": _limits(finding, LIMITS.get(course, ())),
    }


def _layers(run: StoredRun, metric: str, places: Sequence[str]) -> list[tuple[str, Course]]:
    """Return the course of the layers at some places, beside the middle of the others."""
    looks = [(look.step, look.layers[metric]) for look in run.stats if look.layers.get(metric)]
    names = list(dict.fromkeys(name for _, values in looks for name in values))
    at = [name for name in names if any(_within(name, place) for place in places if place)]
    shown = evenly(at or names, MOST_LINES)
    series = [
        (name, [(step, values[name]) for step, values in looks if name in values]) for name in shown
    ]
    others = [(s, [v for name, v in values.items() if name not in at]) for s, values in looks]
    middle = [(step, median(values)) for step, values in others if values]
    return [*series, ("median of the other layers", middle)] if at and middle else series


def _within(layer: str, place: str) -> bool:
    """Tell whether a layer is a place, holds it (as a parameter), or lies in it."""
    place = place.split(" > ")[0]
    return layer == place or layer.startswith(f"{place}.") or place.startswith(f"{layer}.")


def _scalars(run: StoredRun, name: str) -> list[tuple[str, Course]]:
    found: dict[str, Course] = {}
    for look in run.stats:
        for key, value in look.scalars.items():
            if key == name or key.startswith(f"{name}/"):
                found.setdefault(key, []).append((look.step, value))
    return [(key.partition("/")[2] or key, found[key]) for key in evenly(list(found), MOST_LINES)]


def _bars(finding: Finding, labels: Mapping[str, str], *, whole: bool = False) -> dict[str, Any]:
    """Return numbers of the evidence beside each other; with ``whole``, of what is all of it."""
    found = [
        [label, value]
        for key, label in labels.items()
        if _finite(value := finding.evidence.get(key))
    ]
    # One number alone says nothing, unless it is known what all would be.
    if len(found) < (1 if whole else 2):
        return {}
    return {
        "kind": "bars",
        "title": "What was measured",
        "x": "",
        "y": "",
        "series": [{"name": finding.name, "points": found}],
        "marks": [],
        "limits": [{"y": 1.0, "label": "all"}] if whole else [],
    }


def _lines(title: str, x: str, y: str, series: Iterable[tuple[str, Course]]) -> dict[str, Any]:
    drawn = [
        {
            "name": name,
            "points": points([step for step, _ in course], [y for _, y in course], MOST_POINTS),
        }
        for name, course in series
    ]
    return {
        "kind": "lines",
        "title": title,
        "x": x,
        "y": y,
        "series": drawn,
        "marks": [],
        "limits": [],
    }


def _limits(finding: Finding, keys: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"y": value, "label": key.replace("_", " ")}
        for key in keys
        if _finite(value := finding.evidence.get(key))
    ]


def _finite(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _drawable(course: Course) -> bool:
    return any(math.isfinite(value) for _, value in course)
