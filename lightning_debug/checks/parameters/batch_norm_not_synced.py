"""Batch norms that see the small batch of one process only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import BatchNorms, Plan


@dataclass(kw_only=True)
class BatchNormNotSynced(Check):
    """Several processes train together, and each batch norm sees few values of its own process.

    Why: the batch is split over the processes and each normalises its share by itself, so a large
    batch in all is a small one to every batch norm. Their running statistics drift apart, and
    only those of one process are saved.

    Silent when: one process trains; batch norms are synchronised; each process has enough samples.

    Source: Google's Deep Learning Tuning Playbook, on batch normalization across devices.

    Args:
        values: Values of a channel in each process from which on there are enough.
        samples: Images or sequences in each process from which on there are enough.
        patience: Looks in a row.
    """

    fix = (
        "Trainer(sync_batchnorm=True) on GPUs; else a larger batch_size for each process, or"
        " nn.GroupNorm."
    )

    values: int = 16
    samples: int = 5
    patience: int = 5
    _processes: int = field(default=1, init=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember how many processes there are."""
        self._processes = obs.processes
        yield from ()

    def on_batch_norms(self, obs: BatchNorms) -> Iterator[Finding]:
        """List the batch norms whose own batch is small."""
        if obs.stage != "training" or self._processes < 2:
            return
        for call in obs.calls:
            # A function may be given the samples as channels, to norm each by itself.
            few = call.samples < self.samples and not call.line
            if few or call.values < self.values:
                yield self.finding(
                    obs,
                    f"{call.place} normalises over the batch of one process only:"
                    f" {call.samples} samples, {call.values} values a channel, in each of"
                    f" {self._processes} processes.",
                    where=call.place,
                    values=float(call.values),
                    samples=float(call.samples),
                    processes=float(self._processes),
                )
