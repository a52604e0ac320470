"""What a loss would be if the model knew nothing, and whether it has become better than that."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean

from lightning_debug.observation import LossCall, LossCalls

Key = tuple[str, str, int]
RECENT = 6
LEVELS = 32
BETTER = 0.9
ONE_CLASS = 0.05
NOISE = 0.03
MANY = 1000
EQUAL = 0.01


@dataclass
class Standing:
    """Where a loss stands.

    Attributes:
        levels: Its last chance levels: batches differ.
        values: Its last values.
    """

    levels: deque[float] = field(default_factory=lambda: deque(maxlen=LEVELS))
    values: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def chance(self) -> float:
        """Return the loss of the best constant prediction; nan where it is not known."""
        return fmean(self.levels) if self.levels else math.nan

    @property
    def value(self) -> float:
        """Return the mean of its last values; nan where there are none."""
        return fmean(self.values) if self.values else math.nan

    @property
    def share(self) -> float:
        """Return the last values over the chance level; nan where that is not known."""
        return self.value / self.chance if self.chance > 0.0 else math.nan

    @property
    def learned(self) -> bool:
        """Tell whether the loss is better than chance, by a tenth."""
        return self.share < BETTER

    @property
    def coming(self) -> bool:
        """Tell whether the loss still comes down to chance, as while biases are learned."""
        values = list(self.values)
        if not self.share > 1.0 / BETTER or len(values) < RECENT:
            return False
        half = len(values) // 2
        return fmean(values[half:]) < BETTER * fmean(values[:half])


@dataclass
class Chances:
    """The standing of each call of a loss function, by its name, place and turn."""

    _standings: dict[Key, Standing] = field(default_factory=dict)

    def update(self, obs: LossCalls) -> tuple[Standing, ...]:
        """Return the standing of each call of this look."""
        return tuple(self._update(obs))

    def _update(self, obs: LossCalls) -> Iterator[Standing]:
        times: Counter[tuple[str, str]] = Counter()
        for call in obs.calls:
            place = call.function, call.place
            standing = self._standings.setdefault((*place, times[place]), Standing())
            times[place] += 1
            level = chance(call)
            if math.isfinite(level):
                standing.levels.append(level)
            standing.values.append(call.value)
            yield standing


def only_call(obs: LossCalls) -> LossCall | None:
    """Return the call that is all of the loss; None where the loss is more than one call."""
    if len(obs.calls) != 1 or obs.whole is None:
        return None
    [call] = obs.calls
    return call if math.isclose(call.value, obs.whole.value, rel_tol=EQUAL) else None


def chance(call: LossCall) -> float:
    """Return the loss of the best constant prediction; nan where nothing tells.

    Of several outputs, each may have a constant of its own if it has a bias of its own.

    It is estimated from the one batch of the call, of which the best constant knows the targets,
    so it is corrected for their number. Not known where the targets are made by the model, tell
    samples apart instead of classes (contrastive losses), are all of one class, or are noise that
    is drawn in the step (diffusion).
    """
    references = {k: v for k, v in call.references.items() if math.isfinite(v) and v > 0}
    if not references or call.target.made:
        return math.nan
    count = math.prod(call.target.shape)
    if call.classes and "uniform" in references:
        return _of_classes(call, references, count)
    if "mean" in references:
        standard = abs(call.target_std - 1) < NOISE and abs(call.target_mean) < NOISE
        if count >= MANY and standard:
            return math.nan
        single = references["mean"] * (1 + 1 / max(1, count))
        return min(single, references.get("bias", single))
    return references.get("zero", math.nan)


def _of_classes(call: LossCall, references: dict[str, float], count: int) -> float:
    uniform = references["uniform"]
    prior = call.references.get("prior")
    if prior is None:
        return uniform
    if prior < ONE_CLASS * uniform or (count == call.classes and call.target.distinct == count):
        return math.nan
    return min(uniform, prior + (call.classes - 1) / (2 * max(1, count)))
