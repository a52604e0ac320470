"""Batches in the order of the file."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean, median

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Batch, BatchTensor, Loader, RunStart, same_order

LOOKS_KEPT = 64
SAMPLER = (
    "Let the sampler mix the classes: draw from all samples (torch.randperm(len(dataset))), or"
    " shuffle what it gives before it is cut into batches."
)


@dataclass(kw_only=True)
class DataNotShuffled(Check):
    """Training batches come sorted by their targets, or in the same order in every epoch.

    Why: a batch of one class pulls the whole network towards that class, the next one towards the
    next; batch norm sees statistics of one class only. The same batches in every epoch let the
    network learn the order, and the gradient's noise does not average out.

    Silent when: a loader shuffles; the data are few batches or one pass; the trainer overfits a
    few batches. It is info where order is meant: iterable data, a sampler of one's own (unless it
    goes through one class after the other, and starts over in each epoch), time series
    (neighbouring samples are alike), targets for each token.

    Args:
        looks: Fewest batches before sorting is judged.
        sorted_share: How much more alike the targets of one batch are than those of different
            batches, from 0 (not at all) to 1 (all of a batch are equal).
        batches: Fewest batches of an epoch that have to come again.
        serial: Largest difference between neighbouring samples, over that between any two, that
            tells a time series.
        pure: Smallest share of a batch that one class has where a sampler goes class by class.
        later: Fewest looks of later epochs that show each class at its place again.
    """

    fix = "Shuffle the training data: DataLoader(dataset, batch_size=..., shuffle=True)."
    symptom_of = ("sampler-epoch-not-set",)

    looks: int = 8
    sorted_share: float = 0.5
    batches: int = 4
    serial: float = 0.7
    pure: float = 0.9
    later: int = 4
    _loader: Loader = field(default_factory=Loader, init=False, repr=False)
    _labels: deque[tuple[float, ...]] = field(
        default_factory=lambda: deque(maxlen=LOOKS_KEPT), init=False, repr=False
    )
    _places: deque[tuple[int, int, float]] = field(
        default_factory=lambda: deque(maxlen=LOOKS_KEPT), init=False, repr=False
    )
    _classes: bool = field(default=True, init=False, repr=False)
    _tokens: bool = field(default=False, init=False, repr=False)
    _inputs: deque[float] = field(
        default_factory=lambda: deque(maxlen=LOOKS_KEPT), init=False, repr=False
    )
    _targets: deque[float] = field(
        default_factory=lambda: deque(maxlen=LOOKS_KEPT), init=False, repr=False
    )
    _epochs: dict[int, dict[int, Mapping[str, float]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what the loader is."""
        self._loader = obs.loader
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Compare batches with each other, and the starts of epochs."""
        if self._loader.overfit:
            return
        self._remember(obs)
        yield from self._judge_epochs(obs)
        if obs.tensors:
            yield from self._judge_labels(obs)

    def _remember(self, obs: Batch) -> None:
        target = _target(obs.tensors)
        if target is not None and len(target.labels) >= self.batches:
            self._labels.append(target.labels)
            self._classes = target.integer or all(v == int(v) for v in target.labels if v == v)
            if not self._classes:
                self._targets.append(target.adjacent)
            label, count = Counter(target.labels).most_common(1)[0]
            if count >= self.pure * len(target.labels):
                self._places.append((obs.index, obs.epoch, label))
        inputs = [t for t in obs.tensors if t.input and not t.integer]
        self._inputs.extend(t.adjacent for t in inputs if not math.isnan(t.adjacent))
        self._tokens = self._tokens or any(
            t.target and t.integer and t.features > 1 and not t.input for t in obs.tensors
        )
        # Of a language model, targets are the inputs.
        self._tokens = self._tokens or any(t.input and t.target and t.integer for t in obs.tensors)
        for start in obs.starts:
            self._epochs.setdefault(start.epoch, {})[start.index] = start.prints

    def _judge_epochs(self, obs: Batch) -> Iterator[Finding]:
        full = [epoch for epoch, starts in self._epochs.items() if len(starts) >= self.batches]
        if len(full) < 2:
            return
        first, last = self._epochs[full[-2]], self._epochs[full[-1]]
        if not same_order(first, last):
            return
        message = (
            f"Epoch {full[-1]} starts with the same {len(last)} batches in the same order as epoch"
            f" {full[-2]}."
        )
        fix = self.fix
        if self._loader.order == "random":
            fix = (
                "The loader shuffles, but starts from the same seed in every epoch: do not seed the"
                " generator in train_dataloader()."
            )
        severity = self._severity(("sequential", "random"), self._is_series())
        yield self.finding(obs, message, where="train_dataloader", severity=severity, fix=fix)

    def _judge_labels(self, obs: Batch) -> Iterator[Finding]:
        if len(self._labels) < self.looks:
            return
        if self._classes:
            within, between = _agreement(self._labels)
            share = (within - between) / (1.0 - between) if between < 1.0 else 0.0
            message = (
                f"The batches come sorted by target: two samples of a batch have the same target in"
                f" {within:.0%} of the cases, two of different batches in {between:.0%}."
            )
        else:
            share = _between_share(self._labels)
            message = (
                f"The batches come sorted by target: {share:.0%} of the variance of the targets"
                " lies between batches."
            )
        if share < self.sorted_share:
            return
        series = self._is_series() if self._classes else median(self._inputs or [1.0]) < self.serial
        severity = self._severity(("sequential",), series)
        yield self.finding(obs, message, where="targets", severity=severity, share=share)
        if self._severity(("own",), series) is Severity.WARNING and self._class_by_class():
            classes = len({label for *_, label in self._places})
            message = (
                f"The sampler goes through one class after the other, in every epoch: each of the"
                f" {classes} classes that were seen fills one stretch of it."
            )
            yield self.finding(obs, message, where="sampler", fix=SAMPLER, share=share)

    def _class_by_class(self) -> bool:
        """Tell whether each class comes in one stretch, at the same place of every epoch."""
        first = min((epoch for _, epoch, _ in self._places), default=0)
        labels = [label for *_, label in sorted(self._places)]
        later = [label for _, epoch, label in self._places if epoch > first]
        classes = len(set(labels))
        stretches = sum(1 for _ in groupby(labels))
        return (
            self._classes
            and len(labels) >= 2 * max(self.looks, classes)
            and len(later) >= self.later
            and len(set(later)) > 1
            and stretches == classes
        )

    def _severity(self, orders: tuple[str, ...], series: bool) -> Severity:
        """Return how bad it is: where an order is meant, it is only worth knowing."""
        plain = self._loader.known and self._loader.order in orders
        return Severity.WARNING if plain and not series else Severity.INFO

    def _is_series(self) -> bool:
        """Tell whether neighbours are alike: then the order is that of time."""
        alike = median(self._inputs or [1.0]) < self.serial
        targets = [value for value in self._targets if not math.isnan(value)]
        return self._tokens or alike or median(targets or [1.0]) < self.serial


def _target(tensors: Sequence[BatchTensor]) -> BatchTensor | None:
    """Return the tensor with one target a sample: what losses use, or the second of two."""
    used = [tensor for tensor in tensors if tensor.target and tensor.labels]
    if used:
        return used[0]
    second = tensors[1] if len(tensors) == 2 else None
    return second if second and second.labels and not second.input else None


def _agreement(batches: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return how often two targets of one batch agree, and two of different batches."""
    same = pairs = 0
    whole: Counter[float] = Counter()
    for labels in batches:
        counts = Counter(labels)
        whole.update(counts)
        same += sum(n * (n - 1) for n in counts.values())
        pairs += len(labels) * (len(labels) - 1)
    total = sum(whole.values())
    all_same = sum(n * (n - 1) for n in whole.values())
    others = total * (total - 1) - pairs
    return same / max(1, pairs), (all_same - same) / max(1, others)


def _between_share(batches: Sequence[Sequence[float]]) -> float:
    """Return the share of the variance that lies between batches, less what chance gives."""
    values = [value for labels in batches for value in labels]
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    if not total > 0.0:
        return 0.0
    between = sum(len(labels) * (fmean(labels) - mean) ** 2 for labels in batches)
    return between / total - (len(batches) - 1) / max(1, len(values) - 1)
