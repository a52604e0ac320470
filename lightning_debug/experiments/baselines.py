"""The simplest models on the batches of a run, beside the model that was trained on them."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_debug.curve import Curve, blocks, direction
from lightning_debug.experiments.further import train_on
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.simple import (
    Examples,
    Model,
    Numbers,
    constant,
    log_softmax,
    trained,
)
from lightning_debug.experiments.task import Predicted, Reader, Rows, Task, combinations
from lightning_debug.observation import Baselines, Losses, Observation, SimpleModel, Updates

log = logging.getLogger("lightning_debug")
UPDATES = 400
BATCH = 256
BATCHES = (12, 32)  # on which the model is run: fewest, most
ROWS = 384
FEWEST_BATCHES = 5
FEWEST_SAMPLES = {"sample": 40}
FEWEST_ELSEWHERE = 10
SECONDS = 1.5
HIDDEN = 32
# Of the gain of a simple model: a model that gains less is trained on.
ENOUGH = 0.8
RATES, ROUNDS = (1e-2, 1e-3), (40, 80, 160, 320)
FEWEST_ROUNDS, STILL = 2, 0.05  # of that gain: what a round brings that is worth another
SHORTEST = 100  # run, in updates


class Progress:
    """Follows whether a run still gets on.

    Attributes:
        curve: Its losses.
    """

    def __init__(self) -> None:
        self.curve = Curve()
        self._first: int | None = None
        self._rates: list[float] = []

    def hear(self, obs: Observation) -> None:
        """Take in losses and learning rates."""
        if isinstance(obs, Losses) and obs.values:
            self._first = obs.values[0][0] if self._first is None else self._first
            self.curve.add(obs.values)
        elif isinstance(obs, Updates):
            rate = max((u.lr for u in obs.parameters.values()), default=math.nan)
            if math.isfinite(rate):
                self._rates = [*self._rates[:1], max([rate, *self._rates[1:2]]), rate]

    @property
    def updates(self) -> int:
        """Return how many have been made."""
        return 0 if self._first is None else self.curve.last_step - self._first + 1

    @property
    def warming(self) -> bool:
        """Tell whether the learning rate has done nothing but rise."""
        return len(self._rates) == 3 and self._rates[0] < self._rates[1] <= self._rates[2]

    def fall(self) -> tuple[float, float]:
        """Return how far the loss has come down over the last half of the run, and the score.

        The first over the size of the loss, the second a Mann-Kendall score: below -1.6 it falls.
        """
        start = self._first or 0
        values = self.curve.values(start + 0.5 * self.updates)
        if len(values) < 4:
            return math.inf, -math.inf
        parts = blocks(values, 4)
        size = abs(parts[-1]) or 1.0
        return (parts[0] - parts[-1]) / size, direction(blocks(values, 20))


def baselines(
    replica: Replica,
    batches: Sequence[Any],
    progress: Progress,
    seconds: float,
    *,
    step: int,
    epoch: int,
) -> Baselines:
    """Train a constant, a linear model and one hidden layer, and compare.

    They are tested on samples that they have not been trained on, which the model has seen. They
    get no more updates than the run made, and no more samples. Where the model is behind them, a
    copy is trained on with Adam, to see whether it only needs more of it.

    Args:
        replica: Of the model as it is now, inside :meth:`Replica.working`.
        batches: Some of those that it was trained on.
        progress: How the run got on.
        seconds: How long that may take.
        step: Optimizer updates made.
        epoch: Epoch, counted from 0.

    Raises:
        NotApplicableError: If the run does not learn to predict a part of its batches.
    """
    if progress.updates < SHORTEST:
        raise NotApplicableError("the run was too short to judge the model by")
    test = _Test(replica, batches)
    simple = test.simple(min(progress.updates, UPDATES))
    constant, best = simple["constant"], max(simple.values(), key=lambda marks: marks.mean)
    model = test.model()
    gain = best.mean - constant.mean
    behind = model.mean - constant.mean < ENOUGH * gain
    further = test.further(gain, constant.mean, seconds) if behind else None
    fall, trend = progress.fall()
    return Baselines(
        step=step,
        epoch=epoch,
        function=test.task.function,
        place=test.task.place,
        layout=test.task.layout,
        metric=test.metric,
        samples=test.samples,
        updates=progress.updates,
        model=model.told("model"),
        simple=tuple(marks.told(name) for name, marks in simple.items()),
        further=further.told("trained on") if further else None,
        error=test.error(best.score - model.score),
        gain_error=test.error(best.score - constant.score),
        fall=fall,
        trend=trend,
        warming=progress.warming,
    )


class _Test:
    """Batches to train simple models on, and samples to test all models on.

    Args:
        replica: Of the model.
        batches: Those that were kept.
    """

    def __init__(self, replica: Replica, batches: Sequence[Any]) -> None:
        self._replica, self._batches = replica, batches
        self._end = time.monotonic() + SECONDS
        self._reader = Reader(replica, batches[-1])
        self.task = self._reader.task
        draw = np.random.default_rng(0)
        rows = [self._reader.rows(batch, draw) for batch in batches]
        usual = Counter(r.size for r in rows).most_common(1)[0][0]
        alike = [i for i, r in enumerate(rows) if r.size == usual]
        self._usual = max(1, max(len(rows[i].features) for i in alike))
        self._chosen = self._spread(alike)
        self._predicted = self._run(evaluating=True)
        _require_whole(list(self._predicted.values()), self.task)
        self._split = _Split(rows, self._predicted)
        self._split.require(self.task)
        self.samples = len(set(self._split.tests.samples.tolist()))
        self._data = Examples(
            self._split.features, self._split.targets, self.task.kind, self.task.classes
        )
        level = constant(self._data)(self._split.tests.features)
        self._judge = _Judge(self.task, self._split.tests.targets, level)
        self.metric = self._judge.metric

    def simple(self, updates: int) -> dict[str, _Marks]:
        """Return how good simple models are, the simplest first."""
        size = min(BATCH, self._usual)
        matrices = sum(p.ndim > 1 for p in self._replica.module.parameters())
        models: dict[str, Model] = {"constant": constant(self._data)}
        models["linear"] = trained(self._data, hidden=0, updates=updates, size=size)
        if matrices > 1:
            # A model that is linear on purpose is not to be held against another.
            hidden = trained(self._data, hidden=HIDDEN, updates=updates, size=size)
            models["one hidden layer"] = hidden
        features = self._split.tests.features
        return {name: self._judge(model(features)) for name, model in models.items()}

    def model(self) -> _Marks:
        """Return how good the user's model is."""
        marks = [self._mark(self._predicted)]
        if any(hasattr(module, "running_mean") for module in self._replica.module.modules()):
            # Statistics that lag behind are not what the model has learned.
            with contextlib.suppress(NotApplicableError):
                marks.append(self._mark(self._run(evaluating=False)))
        return max(marks, key=lambda mark: mark.mean)

    def further(self, gain: float, constant: float, seconds: float) -> _Marks | None:
        """Return how good it gets when it is trained on; None where that cannot be told.

        Args:
            gain: What the best simple model gains.
            constant: Over this score.
            seconds: How long it may take.
        """
        begun = [values for _, values in self._replica.started()]
        marks = []
        for rate in RATES:
            end = time.monotonic() + seconds / len(RATES)
            try:
                marks.append(self._trained_on(rate, constant + ENOUGH * gain, STILL * gain, end))
            except NotApplicableError as reason:
                log.info("lightning_debug: a copy is not trained on: %s", reason)
                return None
            finally:
                self._replica.rebase(begun)
            if marks[-1].mean >= constant + ENOUGH * gain:
                break
        return max(marks, key=lambda mark: mark.mean)

    def _trained_on(self, rate: float, enough: float, still: float, end: float) -> _Marks:
        self._end = end + SECONDS
        best: list[_Marks] = []
        for _ in train_on(
            self._replica, self._batches, rate=rate, rounds=ROUNDS, end=end, fewest=FEWEST_ROUNDS
        ):
            self._predicted = self._run(evaluating=True)
            best.append(max([self.model(), *best[-1:]], key=lambda mark: mark.mean))
            stands = len(best) >= FEWEST_ROUNDS and best[-1].mean < best[-2].mean + still
            if best[-1].mean >= enough or stands:
                break
        return best[-1]

    def error(self, differences: Numbers) -> float:
        """Return the standard error of a mean over rows, of which a sample may have many."""
        _, owner = np.unique(self._split.tests.samples, return_inverse=True)
        means = np.bincount(owner, differences) / np.bincount(owner)
        return float(means.std() / math.sqrt(len(means))) if len(means) > 1 else math.inf

    def _mark(self, predicted: Mapping[int, Predicted]) -> _Marks:
        return self._judge(_linked(self._split.values(predicted), self.task))

    def _spread(self, alike: Sequence[int]) -> list[int]:
        """Return the batches to run the model on, evenly spread."""
        count = max(BATCHES[0], min(BATCHES[1], ROWS // self._usual))
        count = min(len(alike), count)
        return [alike[i * len(alike) // count] for i in range(count)]

    def _run(self, *, evaluating: bool) -> dict[int, Predicted]:
        """Run the model on these batches, while there is time."""
        found: dict[int, Predicted] = {}
        for i in self._chosen:
            if time.monotonic() > self._end and len(found) >= FEWEST_BATCHES:
                break
            found[i] = self._reader.predicted(self._batches[i], evaluating=evaluating)
        if len(found) < FEWEST_BATCHES:
            raise NotApplicableError("too few batches were kept")
        self._chosen = list(found)
        return found


def _require_whole(made: Sequence[Predicted], task: Task) -> None:
    """Refuse a loss that is more than a plain comparison: weighted, or with terms of its own."""
    if not all(math.isfinite(p.loss) for p in made):
        raise NotApplicableError("the loss is not finite")
    # There is no mean of a batch in which no target counts.
    made = [p for p in made if np.isfinite(list(p.plain)).all()]
    losses = np.array([p.loss for p in made])
    for combination in combinations(task):
        terms = [[p.plain[i] for i in combination] for p in made]
        design = np.column_stack([np.array(terms), np.ones(len(made))])
        weights, *_ = np.linalg.lstsq(design, losses, rcond=None)
        rest = float(np.std(losses - design @ weights))
        plain = rest <= max(0.02 * float(losses.std()), 1e-5 * float(np.abs(losses).mean()))
        if plain and weights[0] > 0.0 and len(made) >= len(weights) + 2:
            return
    raise NotApplicableError("the loss is more than a comparison of predictions with targets")


class _Split:
    """Samples to train on, and samples to test on that the model was run on, all different."""

    def __init__(self, rows: Sequence[Rows], predicted: Mapping[int, Predicted]) -> None:
        seen: set[int] = set()
        training, testing = list[Rows](), list[tuple[int, Rows]]()
        for i in (*predicted, *(i for i in range(len(rows)) if i not in predicted)):
            batch = rows[i]
            fresh = np.array([key not in seen for key in batch.samples], dtype=bool)
            odd = batch.samples % 2 == 1
            if i in predicted:
                testing.append((i, _picked(batch, fresh & odd)))
            training.append(_picked(batch, fresh & ~odd))
            seen |= set(batch.samples.tolist())
        if len({r.features.shape[1:] for r in training}) > 1:
            raise NotApplicableError("samples differ in size")
        self._testing = testing
        self.features = np.concatenate([r.features for r in training])
        self.targets = np.concatenate([r.targets for r in training])
        self.tests = Rows(
            np.concatenate([r.features for _, r in testing]),
            np.concatenate([r.targets for _, r in testing]),
            np.concatenate([r.samples for _, r in testing]),
            np.concatenate([r.places for _, r in testing]),
        )

    def require(self, task: Task) -> None:
        """Refuse too few samples, and targets that are all equal."""
        fewest = FEWEST_SAMPLES.get(task.layout, FEWEST_ELSEWHERE)
        if min(len(set(self.tests.samples)), len(self.targets)) < fewest:
            raise NotApplicableError("there are too few different samples")
        if not all(np.isfinite(a).all() for a in (self.features, self.targets, self.tests.targets)):
            raise NotApplicableError("the batches hold values that are not finite")
        if (self.tests.targets == self.tests.targets[:1]).all():
            raise NotApplicableError("the targets are all equal")

    def values(self, predicted: Mapping[int, Predicted]) -> Numbers:
        """Return what the model predicts on the tests."""
        if not all(i in predicted for i, _ in self._testing):
            raise NotApplicableError("there is no time to run the model on all batches")
        made = [predicted[i].values[rows.places] for i, rows in self._testing]
        return np.concatenate(made)


def _picked(rows: Rows, where: npt.NDArray[np.bool_]) -> Rows:
    return Rows(rows.features[where], rows.targets[where], rows.samples[where], rows.places[where])


@dataclass(frozen=True)
class _Marks:
    """How good predictions are, row by row."""

    score: Numbers
    loss: Numbers

    @property
    def mean(self) -> float:
        return float(self.score.mean())

    def told(self, name: str) -> SimpleModel:
        return SimpleModel(name=name, score=round(self.mean, 6) + 0.0, loss=float(self.loss.mean()))


class _Judge:
    """Marks predictions: logarithms of shares, shares, or values."""

    def __init__(self, task: Task, targets: Numbers, level: Numbers) -> None:
        self._kind = task.kind
        self._targets = targets
        self._hits = task.kind == "classes" or (task.kind == "labels" and targets.shape[1] == 1)
        self.metric = "accuracy" if self._hits else "explained variance"
        if task.kind != "classes":
            varied = ((targets - level) ** 2).mean(0)
            self._variance = np.where(varied > 0.0, varied, np.inf)
            self._distance = np.abs(targets - np.median(targets, 0)).mean()

    def __call__(self, values: Numbers) -> _Marks:
        """Return the marks."""
        targets = self._targets
        if self._kind == "classes":
            classes = targets.astype(int)
            own = values[np.arange(len(classes)), classes]
            return _Marks((values.argmax(1) == classes).astype(float), -own)
        score = 1.0 - ((values - targets) ** 2 / self._variance).mean(1)
        if self._kind == "values":
            return _Marks(score, np.abs(values - targets).mean(1) / (self._distance or 1.0))
        shares = np.clip(values, 1e-7, 1.0 - 1e-7)
        loss = -(targets * np.log(shares) + (1.0 - targets) * np.log(1.0 - shares)).mean(1)
        if self._hits:
            score = ((values > 0.5) == (targets > 0.5)).mean(1)
        return _Marks(score, loss)


def _linked(values: Numbers, task: Task) -> Numbers:
    """Return predictions of the model as the simple models make them."""
    if task.kind == "classes":
        return log_softmax(values)
    if task.function == "binary_cross_entropy_with_logits":
        shares: Numbers = torch.from_numpy(values).sigmoid().numpy()
        return shares
    return values
