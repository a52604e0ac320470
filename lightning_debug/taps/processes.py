"""What the processes of one run send each other: sums, and a shelf of notes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = 10.0
JOIN = 60.0
PREFIX = "lightning_debug"


class Sum:
    """A row that is being added up over all processes."""

    def __init__(self, row: Tensor, work: Any) -> None:
        self._row = row
        self._work = work
        self._started = time.monotonic()

    @property
    def arrived(self) -> bool:
        """Tell whether :meth:`take` would not wait."""
        return bool(self._work.is_completed())

    def take(self, patience: float) -> list[float]:
        """Return the sums.

        Args:
            patience: Seconds to wait, counted from when the row was sent.

        Raises:
            TimeoutError: If some process has not sent its row by then.
        """
        end = self._started + patience
        pause = 1e-4
        while not self.arrived:
            if time.monotonic() > end:
                raise TimeoutError(f"no answer from all processes in {patience:.0f} s")
            time.sleep(pause)
            pause = min(2.0 * pause, 0.05)
        self._work.wait()  # raises what went wrong
        values: list[float] = self._row.tolist()
        return values


class Processes:
    """The processes that train together, as far as the suite talks to them.

    Sums run in the background, over a group of their own on the host: a process that has died,
    or has left the suite out, holds up neither the others nor the collectives of the run.
    Somebody who does not answer in time is not asked again. Notes lie in the key-value store
    that the processes found each other by; to leave or to read one waits for nobody.

    What it costs: a row of ``n`` numbers moves ``16 n`` bytes through each process, whatever
    their number, on ``size - 1`` connections at most; a note costs a message to the first
    process.

    Args:
        group: Where sums are made.
        alone: A group of the first process only; in others nothing.
        store: Where notes lie; None for nowhere.
        run: Number of the run among those of these processes.
    """

    def __init__(self, group: Any, alone: Any, store: Any, run: int) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._group = group
        self._alone = alone
        self._store = store
        self._prefix = f"{PREFIX}/{run}"
        self._read = 0

    @classmethod
    def join(cls) -> Processes | None:
        """Return the processes of this run; None where there is but one. Asks all of them."""
        ready = dist.is_available() and dist.is_initialized() and dist.is_gloo_available()
        if not ready or dist.get_world_size() == 1:
            return None
        store = dist.distributed_c10d._get_default_store()
        run = store.add(f"{PREFIX}/runs/{dist.get_rank()}", 1)
        timeout = timedelta(seconds=JOIN)
        group = dist.new_group(backend="gloo", timeout=timeout)
        alone = dist.new_group([0], backend="gloo", timeout=timeout)
        return cls(group, alone, store, run)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the first process the only one: what it runs now asks no other process.

        What asks a group that the user has made still does.
        """
        world = dist.distributed_c10d._world
        everyone, world.default_pg = world.default_pg, self._alone
        try:
            yield
        finally:
            world.default_pg = everyone

    def sum(self, row: Sequence[float]) -> Sum:
        """Start to add up a row of numbers, of the same length in all processes."""
        tensor = torch.tensor(row, dtype=torch.float64)
        work = dist.all_reduce(tensor, group=self._group, async_op=True)
        return Sum(tensor, work)

    def count(self, name: str, more: int = 1) -> int:
        """Add to a number that all processes share, and return it."""
        return int(self._store.add(f"{self._prefix}/{name}", more))

    def leave(self, note: str) -> None:
        """Leave a note for the first process."""
        number = self.count("notes")
        self._store.set(f"{self._prefix}/note/{number}", note)

    def notes(self) -> list[str]:
        """Return the notes that nobody has read yet."""
        found: list[str] = []
        last = self.count("notes", 0)
        while self._read < last:
            key = f"{self._prefix}/note/{self._read + 1}"
            if not self._store.check([key]):
                break  # still being written
            found.append(self._store.get(key).decode("utf-8", errors="replace"))
            self._store.delete_key(key)
            self._read += 1
        return found

    def finish(self) -> None:
        """Say that this process has no more to tell."""
        self.count("finished")

    def await_others(self, patience: float = PATIENCE) -> bool:
        """Wait until all others have finished; tell whether they have."""
        end = time.monotonic() + patience
        while self.count("finished", 0) < self.size - 1:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True
