"""The simplest models: a constant, a linear one, one hidden layer; trained on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Model = Callable[[Numbers], Numbers]
RATE, BETAS, EPSILON = 1e-3, (0.9, 0.999), 1e-8  # Adam as it comes
MOST_WORK = 2e9  # multiplications for one model


@dataclass(frozen=True)
class Examples:
    """What to learn from.

    Attributes:
        features: One row each, of any scale.
        targets: Class ids, or one column a value.
        kind: ``"classes"``, ``"labels"`` or ``"values"``.
        classes: How many there are; 0 for other kinds.
    """

    features: Numbers
    targets: Numbers
    kind: str
    classes: int = 0


def constant(data: Examples) -> Model:
    """Return the best constant: logarithms of shares, shares, or means."""
    if data.kind == "classes":
        counts = np.bincount(data.targets.astype(int), minlength=data.classes)
        values: Numbers = np.log((counts + 1.0) / (counts.sum() + data.classes))
    else:
        values = data.targets.mean(0)

    def model(features: Numbers) -> Numbers:
        made: Numbers = np.tile(values, (len(features), 1))
        return made

    return model


def trained(data: Examples, *, hidden: int, updates: int, size: int) -> Model:
    """Train with Adam as it comes, and return the model; like :func:`constant`.

    Args:
        data: What to learn from.
        hidden: Units of the hidden layer; 0 for a linear model.
        updates: At most how many.
        size: Of a batch.
    """
    draw = np.random.default_rng(0)
    mean, spread = data.features.mean(0), data.features.std(0)
    scale = np.where(spread > 1e-6 * (np.abs(mean) + 1e-12), spread, np.inf)

    def entered(features: Numbers) -> Numbers:
        # A feature that is nearly constant must not become huge on a few samples.
        standard: Numbers = np.clip((features - mean) / scale, -10.0, 10.0)
        return standard

    targets, level, unit = _targets(data)
    inputs = entered(data.features)
    net = _Net(inputs.shape[1], targets.shape[1], hidden, draw)
    updates = min(updates, int(MOST_WORK / (6.0 * size * net.size)) + 1)
    order = np.empty(0, dtype=int)
    for update in range(1, updates + 1):
        if len(order) < size:
            order = np.concatenate([order, draw.permutation(len(inputs))])
        picked, order = order[:size], order[size:]
        net.update(inputs[picked], targets[picked], data.kind, update)

    def model(features: Numbers) -> Numbers:
        out = net(entered(features))[-1]
        return _linked(out, data.kind) if data.kind != "values" else out * unit + level

    return model


def _targets(data: Examples) -> tuple[Numbers, Numbers, Numbers]:
    """Return targets as a net predicts them, with their level and unit."""
    if data.kind == "classes":
        one_hot: Numbers = np.eye(data.classes)[data.targets.astype(int)]
        return one_hot, np.zeros(1), np.ones(1)
    if data.kind == "labels":
        return data.targets, np.zeros(1), np.ones(1)
    level, spread = data.targets.mean(0), data.targets.std(0)
    unit = np.where(spread > 0.0, spread, 1.0)
    return (data.targets - level) / unit, level, unit


def _linked(out: Numbers, kind: str) -> Numbers:
    """Return logarithms of shares for classes, and shares for labels."""
    if kind == "classes":
        return log_softmax(out)
    shares: Numbers = 1.0 / (1.0 + np.exp(-np.clip(out, -50.0, 50.0)))
    return shares


def log_softmax(logits: Numbers) -> Numbers:
    """Return the logarithms of the shares that logits stand for, row by row."""
    shifted = logits - logits.max(1, keepdims=True)
    logs: Numbers = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs


class _Net:
    """A linear layer, or two with a ReLU between them; trained with Adam."""

    def __init__(self, inputs: int, outputs: int, hidden: int, draw: np.random.Generator) -> None:
        sizes = [inputs, hidden, outputs] if hidden else [inputs, outputs]
        self._weights: dict[str, Numbers] = {}
        for i, (before, after) in enumerate(itertools.pairwise(sizes)):
            bound = 1.0 / np.sqrt(before)
            self._weights[f"w{i}"] = draw.uniform(-bound, bound, (before, after))
            self._weights[f"b{i}"] = draw.uniform(-bound, bound, after)
        self._layers = len(sizes) - 1
        self._first = {name: np.zeros_like(w) for name, w in self._weights.items()}
        self._second = {name: np.zeros_like(w) for name, w in self._weights.items()}
        self.size = sum(w.size for w in self._weights.values())

    def __call__(self, inputs: Numbers) -> list[Numbers]:
        """Return what each layer gives."""
        outs, values = [], inputs
        for i in range(self._layers):
            values = values @ self._weights[f"w{i}"] + self._weights[f"b{i}"]
            if i < self._layers - 1:
                values = np.maximum(values, 0.0)
            outs.append(values)
        return outs

    def update(self, inputs: Numbers, targets: Numbers, kind: str, update: int) -> None:
        """Make one update on a batch."""
        outs = self(inputs)
        made = outs[-1]
        if kind == "classes":
            made = np.exp(log_softmax(made))
        elif kind == "labels":
            made = _linked(made, kind)
        slope = (made - targets) / len(inputs)
        if kind != "classes":
            slope = slope * (2.0 if kind == "values" else 1.0) / targets.shape[1]
        gradients: dict[str, Numbers] = {}
        for i in reversed(range(self._layers)):
            below = outs[i - 1] if i else inputs
            gradients[f"w{i}"], gradients[f"b{i}"] = below.T @ slope, slope.sum(0)
            if i:
                slope = (slope @ self._weights[f"w{i}"].T) * (below > 0.0)
        self._step(gradients, update)

    def _step(self, gradients: Mapping[str, Numbers], update: int) -> None:
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += (1.0 - BETAS[0]) * (gradient - first)
            second += (1.0 - BETAS[1]) * (gradient**2 - second)
            size = np.sqrt(second / (1.0 - BETAS[1] ** update)) + EPSILON
            self._weights[name] -= RATE * first / (1.0 - BETAS[0] ** update) / size
