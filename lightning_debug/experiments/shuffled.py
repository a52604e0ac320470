"""Whether labels belong to their inputs, or could as well belong to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.simple import Numbers
from lightning_debug.experiments.task import Reader, Task
from lightning_debug.observation import ShuffledLabels

FEW, MOST, FEWEST = 250, 800, 150  # samples
CLEAR = 6.0  # standard deviations: no more samples are needed
ORDERS, PLANTED = 40, 15
RELATION = 0.1
CODES = 8
LINEAR, NEAR = (1.0, 30.0), (0.1, 1.0)  # how much models are held back


def shuffled(
    replica: Replica, batches: Sequence[Any], *, last: bool = True, step: int, epoch: int
) -> ShuffledLabels | None:
    """Predict each label from all other samples, and do the same with labels in other orders.

    What predicts is linear in the inputs, or goes by the samples that are near; both have a closed
    form, so nothing is trained and no sample is tested by a model that has seen it.

    Args:
        replica: Inside :meth:`Replica.working`; its training step tells what the labels are.
        batches: Some of those that the run trains on.
        last: Whether there will be no more of them.
        step: Optimizer updates made.
        epoch: Epoch, counted from 0.

    Returns:
        What was seen; None where more samples would tell more, and will come.

    Raises:
        NotApplicableError: If the run does not learn to predict a label of each sample.
    """
    reader = Reader(replica, batches[0])
    _require(reader.task)
    inputs, labels = _samples(reader, batches)
    obs = _compared(inputs[:FEW], labels[:FEW], reader.task)
    if obs.real < CLEAR and last and len(labels) > FEW:
        obs = _compared(inputs, labels, reader.task)
    return replace(obs, step=step, epoch=epoch) if last or obs.real >= CLEAR else None


def _compared(inputs: Numbers, labels: Numbers, task: Task) -> ShuffledLabels:
    draw = np.random.default_rng(0)
    data = _Labels(labels, task, draw)
    orders = [np.arange(len(labels))]
    orders += [draw.permutation(len(labels)) for _ in range(ORDERS)]
    orders += [data.planted(_weakly_told(inputs, data.relation, draw)) for _ in range(PLANTED)]
    scores = _scores(inputs, data.columns, np.array(orders))
    random = scores[1 : 1 + ORDERS]
    spread = random.std(0)
    standard = (scores - random.mean(0)) / np.where(spread > 0.0, spread, np.inf)
    real, random, planted = np.split(standard.max(1), [1, 1 + ORDERS])
    return ShuffledLabels(
        samples=len(labels),
        real=float(real[0]),
        highest=float(random.max()),
        weak=float(np.quantile(planted, 0.2)),
    )


def _require(task: Task) -> None:
    if task.layout != "sample":
        raise NotApplicableError("there are several labels for each sample")
    if task.ids:
        raise NotApplicableError("the inputs are ids: one tells nothing of another")
    if task.series and task.kind == "values":
        raise NotApplicableError("it may be a forecast")


def _samples(reader: Reader, batches: Sequence[Any]) -> tuple[Numbers, Numbers]:
    """Return the inputs, of one scale, and labels of samples that are all different."""
    draw = np.random.default_rng(0)
    inputs, labels, seen = list[Numbers](), list[Numbers](), set[int]()
    for batch in batches:
        rows = reader.rows(batch, draw)
        for features, label, key in zip(rows.features, rows.targets, rows.samples, strict=True):
            if key not in seen and len(seen) < MOST:
                seen.add(key)
                inputs.append(features)
                labels.append(label)
    if len(seen) < FEWEST:
        raise NotApplicableError("there are too few different samples")
    stacked, made = np.array(inputs), np.array(labels)
    if not (np.isfinite(stacked).all() and np.isfinite(made).all()):
        raise NotApplicableError("the batches hold values that are not finite")
    if (made == made[:1]).all():
        raise NotApplicableError("the labels are all equal")
    spread = stacked.std(0)
    varied = spread > 1e-6 * (np.abs(stacked.mean(0)) + 1e-12)
    if not varied.any():
        raise NotApplicableError("the inputs are all equal")
    standard = (stacked[:, varied] - stacked[:, varied].mean(0)) / spread[varied]
    return np.clip(standard, -10.0, 10.0), made


def _weakly_told(inputs: Numbers, relation: float, draw: np.random.Generator) -> Numbers:
    """Return a number for each sample, a little of which the inputs tell."""
    # What varies together in the inputs tells more than what does not.
    told = inputs @ (draw.standard_normal(len(inputs)) @ inputs)
    noise = draw.standard_normal(len(inputs))
    mixed: Numbers = np.sqrt(relation) * told / told.std() + np.sqrt(1.0 - relation) * noise
    return mixed


class _Labels:
    """Labels as a few columns, and in other orders.

    Attributes:
        relation: Share of the variance that a weak relation explains: of many classes more, so
            that it tells the same share of what there is to know.
    """

    def __init__(self, labels: Numbers, task: Task, draw: np.random.Generator) -> None:
        self.relation = 1.0 - (1.0 - RELATION) ** np.log2(max(2, task.classes))
        if task.kind == "classes":
            columns = np.eye(task.classes)[labels.astype(int)]
            self._level = labels
        else:
            # Ranks: a few values far out would outweigh all others.
            columns = labels.argsort(0).argsort(0) / len(labels)
            columns = np.where((labels == np.round(labels)).all(), labels, columns)
            self._level = columns @ draw.standard_normal(columns.shape[1])
        if columns.shape[1] > CODES:
            columns = columns @ draw.standard_normal((columns.shape[1], CODES))
        columns = columns - columns.mean(0)
        spread = columns.std(0)
        self.columns = columns[:, spread > 0.0] / spread[spread > 0.0]

    def planted(self, told: Numbers) -> Any:
        """Return the order of labels in which they rise with a number."""
        order = np.empty(len(told), dtype=int)
        order[told.argsort()] = self._level.argsort(kind="stable")
        return order


def _scores(inputs: Numbers, columns: Numbers, orders: Any) -> Numbers:
    """Return how well each order is predicted, sample by sample from the others, by each model."""
    count = len(inputs)
    labels = columns[orders].transpose(1, 0, 2).reshape(count, -1)
    found = []
    for kernel, penalty in _kernels(inputs):
        inverse = np.linalg.inv(kernel + penalty * np.eye(count))
        # Leaving a sample out has a closed form.
        guesses = labels - (inverse @ labels) / np.diag(inverse)[:, None]
        guesses -= guesses.mean(0)
        products = (guesses * labels).reshape(count, len(orders), -1).sum((0, 2))
        sizes = (guesses**2).reshape(count, len(orders), -1).sum((0, 2))
        found.append(products / np.sqrt(np.maximum(sizes, 1e-30)))
    return np.stack(found, 1)


def _kernels(inputs: Numbers) -> list[tuple[Numbers, float]]:
    """Return how alike samples are, in two ways, each with two penalties."""
    products = inputs @ inputs.T
    squares = np.diag(products)
    linear = products / squares.mean()
    distances = squares[:, None] + squares - 2.0 * products
    near = np.exp(-distances / np.median(distances))
    return [*((linear, p) for p in LINEAR), *((near, p) for p in NEAR)]
