"""Steps that change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Updates
from lightning_debug.ratios import by_group


@dataclass(kw_only=True)
class UpdateTooSmall(Check):
    """No step since the start has changed the weights by more than a millionth of themselves.

    Why: about a thousandth a step is usual. At a millionth the weights need a million steps to
    move by their own size: training stands still.

    Silent when: the learning rate is still rising (warm-up; one that rises once an epoch takes
    ``warm_patience`` looks to rule out) or has come down (end of a schedule); steps were larger
    before (the model has converged); only some layers are slow.

    Source: CS231n, Neural Networks Part 3, "ratio of weights:updates".

    Args:
        ratio: Smallest healthy median of update over weight (rms) in a parameter group.
        patience: Looks in a row.
        warm_patience: The same where a scheduler has kept the learning rate below its full size
            from the start.
    """

    symptom_of = (
        "clipping-too-tight",
        "precision-underflow",
        "activation-collapse",
        "vanishing-gradient",
        "zero-gradient",
        "weight-init-scale",
        "dead-relu",
        "scheduler-misconfigured",
        "learning-rate-too-low",
    )
    fix = "Multiply the learning rate of this group by 10 to 1000, and check its schedule."

    ratio: float = 1e-6
    patience: int = 10
    warm_patience: int = 30
    _fallen: set[str] = field(default_factory=set, init=False, repr=False)
    _moved: set[str] = field(default_factory=set, init=False, repr=False)
    _lr: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Compare the median ratio of each parameter group."""
        for group, ratios in by_group(obs).items():
            last = self._lr.get(group)
            self._lr[group] = ratios.lr
            self._fallen |= {group} if last is not None and ratios.lr < last else set()
            if ratios.median >= self.ratio or (last is not None and ratios.lr != last):
                self._moved |= {group} if ratios.median >= self.ratio else set()
            elif ratios.lr != 0.0 and group not in self._moved:
                message = (
                    f"One step of {group} changes the weights by {ratios.median:.1e} of their size"
                    f" (median of {ratios.count}; about 1e-3 is usual); its learning rate is"
                    f" {ratios.lr:.3g}."
                )
                warming = ratios.lr < ratios.base_lr and group not in self._fallen
                yield self.finding(
                    obs,
                    message,
                    where=group,
                    patience=self.warm_patience if warming else 0,
                    ratio=ratios.median,
                    lr=ratios.lr,
                )
