"""When to look: every update at first, then ever more rarely."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Schedule:
    """Look at each of the first ``dense`` updates, then at growing intervals.

    Most bugs show at once, and what shows later does not go away between two looks. After the
    dense start the next look is a quarter of the updates made so far away, at most
    ``every_n_steps``.
    """

    every_n_steps: int = 50
    dense: int = 10
    _next: int = 0

    def __post_init__(self) -> None:
        """Refuse an interval that is not a positive whole number."""
        every = self.every_n_steps
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every_n_steps={every!r} must be a whole number of at least 1")

    def due(self, update: int) -> bool:
        """Tell whether to look at the update with this number, counted from 0."""
        return update >= self._next

    def looked(self, update: int) -> None:
        """Plan the next look after one at ``update``."""
        interval = 1 if update + 1 < self.dense else max(1, update // 4)
        self._next = update + min(interval, self.every_n_steps)
