"""A distributed sampler that starts every epoch from the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Batch, Plan, RunStart, same_order


@dataclass(kw_only=True)
class SamplerEpochNotSet(Check):
    """In a run of several processes each epoch has the same order, though the sampler shuffles.

    Why: a sampler for several processes draws its order from a seed and the number of the epoch.
    Where nobody tells it the epoch, every epoch has the same batches in the same order.

    Silent when: one process trains; the sampler is not meant to shuffle; the order changes; the
    trainer overfits a few batches, or an epoch has few of them.

    Source: pytorch issue 31771; pytorch-lightning issue 13316.

    Args:
        batches: Fewest batches of an epoch that have to come again.
    """

    fix = (
        "Give the sampler (or batch sampler) a method set_epoch(epoch) that the order depends on,"
        " and call it in on_train_epoch_start: Lightning calls it for the loader's sampler and for"
        " the sampler of its batch sampler only."
    )

    batches: int = 4
    _applies: bool = field(default=False, init=False, repr=False)
    _overfit: bool = field(default=False, init=False, repr=False)
    _epochs: dict[int, dict[int, Mapping[str, float]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what the sampler is."""
        self._overfit = obs.loader.overfit
        self._applies = obs.loader.shares
        yield from ()

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember whether there are several processes."""
        self._applies = self._applies and obs.processes > 1 and not self._overfit
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Compare the starts of epochs."""
        for start in obs.starts:
            self._epochs.setdefault(start.epoch, {})[start.index] = start.prints
        full = [epoch for epoch, starts in self._epochs.items() if len(starts) >= self.batches]
        if not self._applies or len(full) < 2:
            return
        first, last = self._epochs[full[-2]], self._epochs[full[-1]]
        if same_order(first, last):
            yield self.finding(
                obs,
                f"The sampler shuffles, but epoch {full[-1]} starts with the same {len(last)}"
                f" batches in the same order as epoch {full[-2]}: nobody has told it the epoch.",
                where="train_dataloader",
                batches=float(len(last)),
            )
