"""A loss that grows out of hand."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

from lightning_debug.chance import chance
from lightning_debug.check import Check
from lightning_debug.curve import Curve, blocks, direction
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossCalls, Losses, Observation, RunEnd, RunStart, Updates
from lightning_debug.uphill import Uphill


@dataclass(kw_only=True)
class LossDiverging(Check):
    """The loss has grown, or jumps about, by orders of magnitude, and does not come back.

    Why: the steps lead uphill: the learning rate is far too high, the sign is wrong, or nothing
    bounds what the loss can reach. What was learned is lost.

    Silent when: it comes back (a spike); it stays near what a constant prediction gets, so also
    where targets grow, as returns do; the total grows by a schedule while the loss functions in
    it do not (KL warm-up); it has ever been negative (critics, densities), unless it falls below
    all bounds while the loss functions in it become far worse than a constant; there are several
    optimizers; the model makes its own targets.

    Args:
        growth: Upper quartile of the recent losses over the best level so far.
        chance: The same over what a constant prediction gets, and over the first losses.
        unknown: The same over the first losses, where no loss function is known.
        rise: Mann-Kendall score of the whole curve from which it rises, where no loss function is
            known.
        recent: Losses that make a level.
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    symptom_of = (
        "gradients-not-cleared",
        "accumulation-not-scaled",
        "learning-rate-too-high",
        "update-too-large",
        "exploding-gradient",
        "input-not-normalized",
        "data-not-shuffled",
    )
    fix = (
        "Divide the learning rate by 10, clip gradients, Trainer(gradient_clip_val=1.0), and add a"
        " warm-up. If it grows steadily, check the sign of the loss (a minus, maximize=True)."
    )

    growth: float = 10.0
    chance: float = 3.0
    unknown: float = 30.0
    rise: float = 3.0
    recent: int = 20
    patience: int = 3
    _uphill: Uphill = field(default_factory=Uphill, init=False, repr=False)
    _curve: Curve = field(default_factory=Curve, init=False, repr=False)
    _last: deque[float] = field(default_factory=deque, init=False, repr=False)
    _first: list[float] = field(default_factory=list, init=False, repr=False)
    _optimizers: set[str] = field(default_factory=set, init=False, repr=False)
    _negative: bool = field(default=False, init=False, repr=False)
    _heard: bool = field(default=False, init=False, repr=False)
    _chance: float = field(default=math.nan, init=False, repr=False)
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=3), init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Stand alone with the sign: steps that lead uphill are too large in the end."""
        return () if self._uphill.found else self.symptom_of

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember who trains what."""
        self._optimizers |= {p.optimizer for p in obs.parameters.values() if p.optimizer}
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Count the optimizers."""
        self._optimizers.add(obs.optimizer)
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Hold the loss functions against constant predictions."""
        self._uphill.update(obs)
        self._heard = self._heard or bool(obs.calls)
        if any(call.references for call in obs.calls):
            # Of the present batch: targets may grow, and a constant gets worse with them.
            self._chance = sum(chance(call) for call in obs.calls)
        value = sum(call.value for call in obs.calls)
        if math.isfinite(self._chance) and obs.calls and not math.isnan(value):
            self._ratios.append(value / self._chance)
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Compare the recent losses with the best and with the first ones."""
        values = [value for _, value in obs.values if not math.isnan(value)]
        self._negative = self._negative or any(value < 0 for value in values)
        self._first += values[: 5 - len(self._first)]
        self._last.extend(values[-self.recent :])
        while len(self._last) > self.recent:
            self._last.popleft()
        self._curve.add(obs.values)
        yield from self._judge(obs)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge what has come since the last look."""
        if obs.completed:
            for finding in self._judge(obs):
                yield replace(finding, patience=1)

    def _judge(self, obs: Observation) -> Iterator[Finding]:
        if self._uphill.found and len(self._optimizers) < 2:
            yield self._wrong_way(obs)
        if self._negative or len(self._optimizers) > 1 or len(self._last) < 5:
            return
        level = sorted(self._last)[-1 - len(self._last) // 4]
        curve = self._curve.values()
        first = median(self._first[:3])
        best = min([first, *blocks(curve, max(1, len(curve) // 5))])
        if not (level > self.growth * best and level > self.chance * first):
            return
        if self._heard and not (self._ratios and max(self._ratios) > self.chance):
            return
        rises = direction(blocks(curve, 20)) > self.rise
        if not self._heard and not (level > self.unknown * first > 0 and rises):
            return
        message = (
            f"The loss was {first:.4g} at first and {best:.4g} at best; a quarter of the last"
            f" {len(self._last)} losses is above {level:.4g}."
        )
        if self._heard and math.isfinite(self._chance):
            message += f" A constant prediction gives {self._chance:.4g}."
        yield self.finding(
            obs, message, where="loss", first=first, best=best, level=level, reference=self._chance
        )

    def _wrong_way(self, obs: Observation) -> Finding:
        uphill = self._uphill
        message = (
            f"The loss has fallen to {uphill.whole:.4g}, while the loss functions in it have risen"
            f" to {uphill.value:.4g}; constant predictions give {uphill.reference:.4g}. The steps"
            " make the model worse."
        )
        return self.finding(
            obs,
            message,
            where="loss",
            fix=(
                "Check the sign of each part of the loss: what is to become small (an error, a"
                " divergence, a penalty) enters with a plus."
            ),
            total=uphill.whole,
            value=uphill.value,
            reference=uphill.reference,
        )
