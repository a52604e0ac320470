"""When to look, and how closely: every update at first, then ever more rarely."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from statistics import median

DEFAULT_EVERY = 50
# A whole look at a small network costs as much as several steps, a glance a part of one.
WHOLE_EVERY = 20
# Patience is that long: what is wrong is told soon after training goes on.
DENSE_AGAIN = 8


@dataclass
class Schedule:
    """Look at each of the first ``dense`` updates, then at growing intervals.

    Most bugs show at once, and what shows later does not go away between two looks. After the
    dense start the next look is a quarter of the updates made so far away, at most
    ``every_n_steps``. Where that is less than 20 most looks are glances: at gradients, updates and
    the loss, with nothing hooked into the forward pass. Whole looks then come as if it were 20.

    Args:
        every_n_steps: Longest interval, in updates. None: 50, or as long as it takes to stay
            within the budget, because on a tiny network a look costs as much as many steps.
        dense: Updates at the start that are all looked at.
        budget: Share of the time of training that looks may take, if ``every_n_steps`` is None.
    """

    every_n_steps: int | None = None
    dense: int = 10
    budget: float = 0.015
    _next: int = 0
    _next_whole: int = 0

    def __post_init__(self) -> None:
        """Refuse an interval that is not a positive whole number."""
        every = self.every_n_steps
        if every is None:
            return
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every_n_steps={every!r} must be a whole number of at least 1")

    def due(self, update: int) -> bool:
        """Tell whether to look at the update with this number, counted from 0."""
        return update >= self._next

    def whole(self, update: int) -> bool:
        """Tell whether a look at this update is a whole one; if not, a glance will do."""
        return update >= self._next_whole

    def resume(self, update: int) -> None:
        """Look at each of a few updates from this one on, as training goes on with it."""
        self.dense = max(self.dense, update + DENSE_AGAIN)

    def looked(self, update: int, cost: float = 0.0) -> None:
        """Plan the next look after a whole one at ``update``.

        Args:
            update: Number of the update, counted from 0.
            cost: Time that a look adds to a step, over the time of a step.
        """
        longest = self.every_n_steps or max(DEFAULT_EVERY, int(cost / self.budget))
        interval = 1 if update + 1 < self.dense else max(1, update // 4)
        self._next_whole = update + min(interval, max(longest, WHOLE_EVERY))
        self._next = update + min(interval, longest)

    def glanced(self, update: int) -> None:
        """Plan the next look after a glance at ``update``."""
        self._next = min(update + (self.every_n_steps or DEFAULT_EVERY), self._next_whole)


class Clock:
    """Compares the time of batches with a look to that of batches without one."""

    def __init__(self) -> None:
        self._started = 0.0
        self._looks: deque[float] = deque(maxlen=5)
        self._steps: deque[float] = deque(maxlen=15)

    def start(self) -> None:
        """A batch starts."""
        self._started = time.perf_counter()

    def stop(self, *, looked: bool) -> None:
        """A batch ends."""
        times = self._looks if looked else self._steps
        times.append(time.perf_counter() - self._started)

    @property
    def cost(self) -> float:
        """Return the time that a look adds to a step, in steps; 0 while that is not known."""
        if not self._looks or not self._steps:
            return 0.0
        return max(0.0, median(self._looks) / max(median(self._steps), 1e-9) - 1.0)
