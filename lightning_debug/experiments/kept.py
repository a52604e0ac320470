"""Keeps some of the batches that a run trains on, for experiments that need many samples."""

from __future__ import annotations

from typing import Any

from lightning_debug.experiments.batches import NotApplicableError, detached, samples, take
from lightning_debug.taps.statistics import tensors_in

ENOUGH = 512  # samples, for the experiments
EARLY = (16, 64)  # batches that are kept one after the other: fewest, most
GROWTH = 1.2  # of the intervals after that
MOST_BYTES = 32 * 2**20
LARGEST = MOST_BYTES // 16


class KeptBatches:
    """A bounded sample of the batches that are looked at: the first ones, then ever fewer.

    Batches are copied, and only those that are kept; of large ones only the first samples.

    Attributes:
        seen: How many have passed.
        failed: Why none can be kept; empty if they can.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.failed = ""
        self._batches: list[Any] = []
        self._samples = 0
        self._bytes = 0
        self._next = 0

    @property
    def batches(self) -> list[Any]:
        """Return the batches, oldest first.

        Raises:
            NotApplicableError: If there are none.
        """
        if self.failed or not self._batches:
            raise NotApplicableError(self.failed or "no batch was kept")
        return self._batches

    @property
    def enough(self) -> bool:
        """Tell whether they hold many samples."""
        return self._samples >= ENOUGH

    def keep(self, batch: Any) -> None:
        """Keep a copy of a batch that passes by, if it is its turn."""
        due = self.seen >= self._next
        self.seen += 1
        if not due or self.failed:
            return
        try:
            self._add(batch)
        except NotApplicableError as reason:
            self.forget(str(reason))
        fewest, most = EARLY
        early = self.seen < fewest or (not self.enough and self.seen < most)
        self._next = self.seen if early else int(GROWTH * self.seen)

    def forget(self, reason: str = "") -> None:
        """Let go of all of them."""
        self._batches, self._bytes = [], 0
        self.failed = reason or "the batches are not kept any more"

    def _add(self, batch: Any) -> None:
        count, size = samples(batch), sum(t.nbytes for t in tensors_in(batch))
        if not count:
            raise NotApplicableError("the batch is not made of samples")
        if size > LARGEST:
            count = max(1, count * LARGEST // size)
            size = size * count // samples(batch)
            twin = take(batch, count)
        else:
            twin = detached(batch)
        if self._bytes + size <= MOST_BYTES:
            self._batches.append(twin)
            self._bytes += size
            self._samples += count
