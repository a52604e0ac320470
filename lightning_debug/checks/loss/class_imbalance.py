"""Rare classes that the model never predicts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import ClassCounts, LossCall, LossCalls

INVERTED = (
    "Weigh a class by the inverse of its share: F.cross_entropy(logits, y, weight=counts.sum() /"
    " counts), BCEWithLogitsLoss(pos_weight=negatives / positives)."
)


@dataclass(kw_only=True)
class ClassImbalance(Check):
    """Some classes are rare, the loss does not favour them, and the model never predicts them.

    Why: where one class has nine targets in ten, always predicting it is nearly right, and the
    gradient of the rare classes drowns in that of the frequent one. The loss falls, the accuracy
    looks good, and the classes that matter are lost. Weights that are the shares of the classes,
    and not their inverse, make that worse.

    Silent when: the loss is weighted (but not by the shares themselves) or focal, or samples are
    balanced; rare classes are predicted too; few of them have been seen yet; there are several
    targets a sample (next token, segmentation) or very many classes; the loss still tells them
    apart better and better.

    Args:
        ratio: Smallest ratio of the most frequent class to a rare one.
        recall: Largest share of a rare class's targets that are predicted right.
        majority: Smallest share of the frequent class's targets that are.
        seen: Fewest targets of a rare class in the last looks.
        window: Most looks that are summed to see so many.
        strong: Ratio from which on few steps are enough: the frequent class drowns the rest.
        start: First step that is judged where classes are that unbalanced, and the rare class is
            not told apart at all.
        late: The same for others; rare classes are learned last in healthy training too.
        apart: Ratio of these probabilities that counts as higher.
        likeness: Range of exponents of the share of a class that give weights that are its share.
        uneven: Smallest ratio of two shares that weights are held against.
        patience: Looks in a row.
    """

    fix = (
        "Weigh the classes: F.cross_entropy(logits, y, weight=counts.sum() / counts),"
        " BCEWithLogitsLoss(pos_weight=negatives / positives); or sample them evenly"
        " (torch.utils.data.WeightedRandomSampler); or use a focal loss."
    )

    ratio: float = 9.0
    recall: float = 0.05
    majority: float = 0.9
    seen: int = 20
    window: int = 16
    strong: float = 15.0
    start: int = 80
    late: int = 250
    apart: float = 1.2
    likeness: tuple[float, float] = (0.4, 1.6)
    uneven: float = 1.5
    patience: int = 2
    _seen: dict[str, tuple[float, ...]] = field(default_factory=dict, init=False, repr=False)
    _recent: dict[str, deque[ClassCounts]] = field(default_factory=dict, init=False, repr=False)

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Sum up the classes of the last looks."""
        for index, call in enumerate(obs.calls):
            if not call.counts.targets or not call.target.per_sample or not _hard(call):
                continue
            key = f"{index} {call.place}"
            recent = self._recent.setdefault(key, deque(maxlen=self.window))
            nothing = (0.0,) * len(call.counts.targets)
            seen = self._seen.get(key, nothing)
            if len(seen) != len(nothing):
                recent.clear()
                seen = nothing
            recent.append(call.counts)
            self._seen[key] = tuple(a + b for a, b in zip(seen, call.counts.targets, strict=True))
            if call.reduction == "none":
                continue  # weighted by hand, as a focal loss does
            if call.weighted and not self._upside_down(call.counts.weights, self._seen[key]):
                continue
            yield from self._judge(obs, call, recent, self._seen[key])

    def _judge(
        self,
        obs: LossCalls,
        call: LossCall,
        recent: deque[ClassCounts],
        seen: tuple[float, ...],
    ) -> Iterator[Finding]:
        lost = {
            index: window
            for index in range(len(seen))
            if (window := self._window(recent, index))
            and self._lost(obs.step, window, index, max(seen) / seen[index])
        }
        if not lost:
            return
        rare = max(lost, key=lambda index: sum(c.targets[index] for c in lost[index]))
        targets, correct = _totals(lost[rare])
        top = max(range(len(targets)), key=targets.__getitem__)
        share = targets[top] / sum(targets)
        weighed = "the loss does not weigh classes"
        if call.weighted:
            times = call.counts.weights[top] / call.counts.weights[rare]
            weighed = (
                f"the loss weighs them {times:.3g} times as much as class {rare}: the weights are"
                " the wrong way round"
            )
        others = f" So are {len(lost) - 1} other rare classes." if len(lost) > 1 else ""
        message = (
            f"{share:.0%} of the targets of {call.function} are class {top}, and"
            f" {weighed}. Class {rare} is lost: of its {targets[rare]:.0f} targets in the last"
            f" {len(lost[rare])} looks {correct[rare]:.0f} were predicted right.{others}"
        )
        yield self.finding(
            obs,
            message,
            where=call.place,
            fix=INVERTED if call.weighted else self.fix,
            majority=share,
            rare=targets[rare] / sum(targets),
            recall=correct[rare] / targets[rare],
        )

    def _upside_down(self, weights: Sequence[float], seen: Sequence[float]) -> bool:
        """Tell whether the weights are the shares of the classes, or a power near 1 of them.

        One class of several that counts less than all others does so on purpose.
        """
        if not weights or min(weights) <= 0.0 or 2 == len(set(weights)) < len(weights):
            return False
        top = max(range(len(seen)), key=seen.__getitem__)
        powers = [
            math.log(weights[top] / weight) / math.log(seen[top] / targets)
            for weight, targets in zip(weights, seen, strict=True)
            if targets >= self.seen and seen[top] >= self.uneven * targets
        ]
        low, high = self.likeness
        return bool(powers) and all(low <= power <= high for power in powers)

    def _window(self, recent: deque[ClassCounts], index: int) -> list[ClassCounts]:
        """Return the last looks that together have enough targets of a class; none if too few."""
        window: list[ClassCounts] = []
        for counts in reversed(recent):
            window.append(counts)
            if sum(c.targets[index] for c in window) >= self.seen:
                return window
        return []

    def _lost(self, step: int, window: list[ClassCounts], index: int, ratio: float) -> bool:
        targets, correct = _totals(window)
        top = max(range(len(targets)), key=targets.__getitem__)
        early = ratio >= self.strong and _apart(window, index) < self.apart
        return (
            step >= (self.start if early else self.late)
            and ratio >= self.ratio
            and correct[top] >= self.majority * targets[top]
            and correct[index] <= self.recall * targets[index]
        )


def _hard(call: LossCall) -> bool:
    return call.target.dtype == "integer" or call.target.whole


def _totals(window: list[ClassCounts]) -> tuple[list[float], list[float]]:
    """Return the targets and the correct predictions of each class."""
    targets = [sum(column) for column in zip(*(c.targets for c in window), strict=True)]
    correct = [sum(column) for column in zip(*(c.correct for c in window), strict=True)]
    return targets, correct


def _apart(window: list[ClassCounts], index: int) -> float:
    """Return how much more probable a class is on its own targets than on others."""
    looks = [counts for counts in window if counts.targets[index]]
    weight = sum(counts.targets[index] for counts in looks)
    own = sum(counts.own[index] * counts.targets[index] for counts in looks) / weight
    other = sum(counts.other[index] for counts in looks) / len(looks)
    return own / max(other, 1e-12)
