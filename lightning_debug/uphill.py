"""A loss that goes the wrong way: it falls below all bounds while the model gets worse."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lightning_debug.chance import chance
from lightning_debug.observation import LossCalls

MIRRORED = 0.01
MOST_TOTALS = 256


@dataclass(kw_only=True)
class Uphill:
    """Holds a negative total against the loss functions in it.

    A density, a critic or a return makes a loss negative, too, and as large as it likes. They do
    not make predictions worse than a constant; what is driven the wrong way does.

    Args:
        alone: Fall of the total below zero, over what constant predictions get, where it is minus
            the loss functions.
        total: The same where there is more in the total.
        worse: Loss functions over what constant predictions get, and over their best.
        growth: The total over what it was when half of the steps were done.

    Attributes:
        found: Whether the loss goes the wrong way at this look.
        value: What the loss functions give.
        reference: What they give for constant predictions.
        whole: The total.
    """

    alone: float = 100.0
    total: float = 1000.0
    worse: float = 3.0
    growth: float = 3.0
    found: bool = False
    value: float = math.nan
    reference: float = math.nan
    whole: float = math.nan
    _best: float = field(default=math.inf, init=False, repr=False)
    _totals: list[tuple[int, float]] = field(default_factory=list, init=False, repr=False)

    def update(self, obs: LossCalls) -> None:
        """Judge a look."""
        if obs.whole is None or not obs.calls:
            return
        self.whole = obs.whole.value
        self.value = sum(call.value for call in obs.calls)
        # Of the present batch, where each call has one: targets may grow.
        self.reference = sum(chance(call) for call in obs.calls)
        self._best = min(self._best, self.value)
        before = [total for step, total in self._totals if step <= obs.step / 2]
        self._totals.append((obs.step, self.whole))
        if len(self._totals) > MOST_TOTALS:
            self._totals = self._totals[::2]
        mirrored = math.isclose(-self.whole, self.value, rel_tol=MIRRORED)
        fall = self.alone if mirrored else self.total
        self.found = (
            math.isfinite(self.whole)
            and self.whole < -fall * self.reference
            and self.value > self.worse * max(self.reference, self._best)
            and bool(before)
            and -self.whole > self.growth * abs(before[-1])
        )
