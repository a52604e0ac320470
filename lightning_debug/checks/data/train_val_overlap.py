"""Validation on what was trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Batch,
    Loader,
    RunStart,
    Validation,
    ValidationPrints,
)

Key = tuple[float, float]

UNSEEN = 3.0  # Of pairs that are expected to be alike, none is found in one case of twenty.


@dataclass(kw_only=True)
class TrainValOverlap(Check):
    """The same samples are in the training and in the validation data.

    Why: validation then measures memory. It looks fine while the network overfits, and early
    stopping, the choice of a checkpoint and of hyperparameters rest on nothing.

    Silent when: samples are alike by nature (few possible inputs, such as short token sequences or
    flags), judged by how often they repeat within the validation data, and within an epoch of
    training that draws each once (but not where the samples of one class repeat evenly, those of
    another never, and two that differ have no number in common: that is oversampling); a few rows
    are duplicates; the trainer overfits a few batches. Training data in one of several validation
    loaders, to watch both, is info; the training step picks its samples from the batch (nodes of
    one graph, windows of a series), because validation may pick others. An augmentation that
    changes every sample hides the overlap.

    Args:
        share: Smallest share of the validation samples, estimated from the training samples that
            were seen, that is told.
        matches: Fewest different samples that have to match.
        natural: How many times as many as repeat by nature have to match.
        members: Fewest validation samples of a class that show whether it was oversampled.
        copied: Smallest share of them that match where it was.
        evenly: How many times as many different ones there are, at most, as if each came equally
            often; what is frequent by nature is of very different frequencies.
        remembered: Most training samples whose fingerprints are kept.
    """

    severity = Severity.ERROR
    fix = (
        "Split once, before anything is repeated or augmented: train, val ="
        " torch.utils.data.random_split(dataset, [0.9, 0.1]), and give each loader its own part;"
        " keep samples of one origin (patient, document, recording) on one side."
    )

    share: float = 0.05
    matches: int = 5
    natural: float = 3.0
    members: int = 20
    copied: float = 0.5
    evenly: float = 1.1
    remembered: int = 8192
    _loader: Loader = field(default_factory=Loader, init=False, repr=False)
    _picked: bool = field(default=False, init=False, repr=False)
    _first: int | None = field(default=None, init=False, repr=False)
    _labels: set[str] = field(default_factory=set, init=False, repr=False)
    _seen: dict[str, Counter[Key]] = field(default_factory=dict, init=False, repr=False)
    _once: dict[str, Counter[Key]] = field(default_factory=dict, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what the loaders are."""
        self._loader = obs.loader
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Remember the inputs that were trained on."""
        self._first = obs.epoch if self._first is None else self._first
        self._picked = self._picked or obs.picked
        for tensor in obs.tensors:
            if tensor.target and tensor.labels and all(map(float.is_integer, tensor.labels)):
                self._labels.add(tensor.path)
            if tensor.input:
                seen = self._seen.setdefault(tensor.path, Counter())
                once = self._once.setdefault(tensor.path, Counter())
                keys = _keys(tensor.prints)
                room = self.remembered - len(seen)
                seen.update(key for key in keys[: max(0, room)])
                if obs.epoch == self._first and once.total() < self.remembered:
                    once.update(keys)
        yield from ()

    def on_validation(self, obs: Validation) -> Iterator[Finding]:
        """Look for validation samples among them."""
        if self._loader.overfit or self._picked:
            return
        loaders = {item.loader for item in obs.prints}
        labels = {item.loader: item.prints for item in obs.prints if item.path in self._labels}
        found: dict[int, tuple[float, int]] = {}
        for item in obs.prints:
            judged = self._judge(item, labels.get(item.loader, ()))
            if judged and judged > found.get(item.loader, (0.0, 0)):
                found[item.loader] = judged
        for loader, (share, matches) in found.items():
            severity = Severity.ERROR if len(found) == len(loaders) else Severity.INFO
            where = "validation data" if len(loaders) == 1 else f"validation data {loader}"
            message = (
                f"About {share:.0%} of the validation samples are training samples:"
                f" {matches} of those compared have exactly the same input."
            )
            yield self.finding(
                obs, message, where=where, severity=severity, share=share, matches=matches
            )

    def _judge(self, item: ValidationPrints, labels: Sequence[Key]) -> tuple[float, int] | None:
        """Return the estimated share of overlap and the samples that match, if they are many."""
        seen = self._seen.get(item.path)
        keys = _keys(item.prints)
        if not seen or not keys:
            return None
        matched = [key for key in keys if key in seen]
        share = len(matched) / len(keys)
        if item.apart and len(labels) == len(keys) and self._oversampled(seen, keys, labels):
            return share, len(matched)
        by_nature, most = self._nature(item.path, keys)
        whole = max(self._loader.samples, len(seen)) if self._loader.known else len(seen)
        estimate = min(1.0, (share - by_nature) * whole / len(seen))
        enough = 1 if self._loader.shared > self.share else self.matches
        if len(set(matched)) < enough or share < max(self.natural * by_nature, most):
            return None
        if self._loader.shared <= self.share:
            return (estimate, len(matched)) if estimate >= self.share else None
        return self._loader.shared, len(matched)

    def _oversampled(
        self, seen: Mapping[Key, int], keys: Sequence[Key], labels: Sequence[Key]
    ) -> bool:
        """Tell whether the samples of one class were copied evenly, and those of another not."""
        classes: dict[Key, list[Key]] = {}
        for key, label in zip(keys, labels, strict=True):
            classes.setdefault(label, []).append(key)
        copied = single = False
        for members in classes.values():
            if len(members) < self.members:
                continue
            share = sum(key in seen for key in members) / len(members)
            repeated = len(members) > len(set(members))
            single = single or (share < self.share and not repeated)
            copied = copied or (share >= self.copied and self._even(members))
        return copied and single

    def _even(self, keys: Sequence[Key]) -> bool:
        """Tell whether all samples repeat about equally often."""
        equal, pairs = _alike(Counter(keys))
        if equal < self.matches:
            return False
        different = pairs / equal
        expected = different * (1.0 - (1.0 - 1.0 / different) ** len(keys))
        return expected >= self.members and len(set(keys)) <= self.evenly * expected

    def _nature(self, path: str, keys: Sequence[Key]) -> tuple[float, float]:
        """Return the share of samples that match by nature: as estimated, and at most.

        From pairs within the validation data and pairs within one epoch of training, where each
        sample comes once. Where a sampler repeats samples, only the former are left, and may be
        too few to show one that is alike.
        """
        seen = len(self._seen[path])
        equal, pairs = _alike(Counter(keys))
        if self._loader.repeats:
            return _met(equal, pairs, seen), _met(equal + UNSEEN, pairs, seen)
        trained_equal, trained_pairs = _alike(self._once[path])
        estimate = _met(equal + trained_equal, pairs + trained_pairs, seen)
        return estimate, estimate


def _keys(prints: Sequence[Key]) -> list[Key]:
    """Return fingerprints without their last digits, which depend on the order of additions."""
    return [
        (float(f"{first:.5e}"), float(f"{second:.5e}"))
        for first, second in prints
        if math.isfinite(first) and math.isfinite(second)
    ]


def _alike(counts: Mapping[Key, int]) -> tuple[float, float]:
    """Return how many pairs are the same, and how many there are."""
    n = sum(counts.values())
    return sum(count * (count - 1) for count in counts.values()) / 2.0, n * (n - 1) / 2.0


def _met(equal: float, pairs: float, seen: int) -> float:
    """Return how likely a sample is the same as one of so many others."""
    likely = min(1.0, equal / pairs) if pairs else 0.0
    return 1.0 - (1.0 - likely) ** seen
