"""Steps that throw the weights away."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Losses, Observation, Updates
from lightning_debug.ratios import Ratios, by_group


@dataclass(kw_only=True)
class UpdateTooLarge(Check):
    """Each step changes the weights by a large part of themselves, and the loss does not fall.

    Why: about a thousandth a step is usual. Steps of a tenth and more overwrite what was learned
    before, kill units, and end in a loss that jumps about or diverges.

    A step larger than the weights is told at once where the next loss is NaN or infinite.

    Silent when: the loss falls all the same; only biases, norms or zero-initialised weights
    change so much, because weights are held against at least their usual initial size.

    Source: CS231n, Neural Networks Part 3, "ratio of weights:updates".

    Args:
        ratio: Largest healthy median of update over weight (rms) in a parameter group.
        drastic: Update over initial weight that needs only ``drastic_patience`` looks.
        progress: Share of the first loss that has to be gone for such steps to be fine.
        harm: Rise over the first loss that drastic steps have to cause; weights may have to grow
            to reach large targets.
        patience: Looks in a row.
        drastic_patience: The same for drastic steps.
        recovery: Looks that the loss has to come back after a drastic step that raised it.
    """

    symptom_of = (
        "precision-underflow",
        "gradients-not-cleared",
        "accumulation-not-scaled",
        "exploding-gradient",
        "input-not-normalized",
        "loss-reduction",
        "learning-rate-too-high",
    )
    fix = (
        "Divide the learning rate of this group by 10, add warm-up if the first steps need it, and"
        " clip gradients if few steps are so large: Trainer(gradient_clip_val=1.0)."
    )

    ratio: float = 0.1
    drastic: float = 1.0
    progress: float = 0.1
    harm: float = 0.5
    patience: int = 14
    drastic_patience: int = 3
    recovery: int = 8
    _first: float = field(default=math.nan, init=False, repr=False)
    _loss: float = field(default=math.nan, init=False, repr=False)
    _initial: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _thrown: dict[str, Ratios] = field(default_factory=dict, init=False, repr=False)
    _worst: dict[str, Ratios] = field(default_factory=dict, init=False, repr=False)
    _hurt: bool = field(default=False, init=False, repr=False)

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember the first loss and the last; tell of the step that has ruined it."""
        values = [value for _, value in obs.values]
        if not values:
            return
        ruined = next((value for value in values if not math.isfinite(value)), None)
        self._first = values[0] if math.isnan(self._first) else self._first
        self._loss = median(values[-5:]) if ruined is None else ruined
        self._hurt = self._hurt or (bool(self._worst) and self._change() >= self.harm)
        if ruined is not None:
            for group, ratios in self._thrown.items():
                yield self._tell(obs, group, ratios, "initial size", patience=1)
            self._thrown = {}

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Compare the median ratio of each parameter group."""
        for name, update in obs.parameters.items():
            self._initial.setdefault(name, update.weight_rms)
        drastic = by_group(obs, self._initial)
        for group, ratios in by_group(obs).items():
            thrown = drastic[group].median > self.drastic
            self._thrown.pop(group, None)
            if thrown:
                found = self._thrown[group] = drastic[group]
                self._worst[group] = max(self._worst.get(group, found), found, key=_size)
            if thrown and self._change() >= self.harm:
                yield self._tell(obs, group, found, "initial size", self.drastic_patience)
            elif ratios.median > self.ratio and self._change() >= -self.progress:
                yield self._tell(obs, group, ratios, "size")
            elif group in self._worst and self._hurt and self._change() >= -self.progress:
                # It died of one step long ago, and nothing moves any more.
                worst = self._worst[group]
                yield self._tell(obs, group, worst, "initial size", self.recovery)

    def _tell(
        self, obs: Observation, group: str, ratios: Ratios, size: str, patience: int = 0
    ) -> Finding:
        message = (
            f"One step of {group} changes the weights by {ratios.median:.2g} of their {size}"
            f" (median of {ratios.count}; about 1e-3 is usual), most at {ratios.extreme}; its"
            f" learning rate is {ratios.lr:.3g}. The loss has gone from {self._first:.3g} to"
            f" {self._loss:.3g}."
        )
        return self.finding(
            obs, message, where=group, patience=patience, ratio=ratios.median, lr=ratios.lr
        )

    def _change(self) -> float:
        """Return the change of the loss since the first one, relative to it."""
        return (self._loss - self._first) / abs(self._first) if self._first else 0.0


def _size(ratios: Ratios) -> float:
    return ratios.median
