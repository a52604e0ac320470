"""Whether weights shrink while the loss stays where it was: all that can be seen without chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean

from lightning_debug.observation import Gradients, Losses

SHRUNK = 0.9
FALLEN = 0.9
RECENT = 5


@dataclass
class Shrinking:
    """Follows the whole loss, and the size of the weight matrices of each optimizer."""

    _first: float = math.nan
    _last: float = math.nan
    _sizes: dict[str, float] = field(default_factory=dict)
    _shrunk: bool = False

    def hear_losses(self, obs: Losses) -> None:
        """Remember where the loss started, and where it is."""
        values = [value for _, value in obs.values]
        if values:
            self._first = values[0] if math.isnan(self._first) else self._first
            self._last = fmean(values[-RECENT:])

    def hear_gradients(self, obs: Gradients) -> None:
        """Remember the size of the weights at the start, and what it is."""
        size = math.hypot(*(g.weight_norm for g in obs.parameters.values() if g.dims > 1))
        self._shrunk = size < SHRUNK * self._sizes.setdefault(obs.optimizer, size)

    @property
    def stuck(self) -> bool:
        """Tell whether weights have shrunk by a tenth since the start, and the loss has not."""
        return self._shrunk and self._last > FALLEN * self._first > 0.0
