"""Batch norms that normalise over a handful of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import BatchNorms, Plan


@dataclass(kw_only=True)
class BatchNormSmallBatch(Check):
    """A batch norm takes mean and variance of a handful of values.

    Why: the mean and the variance of a few values are mostly noise, and so is what is normalised
    by them; of two values, only the sign of their difference is left. The running statistics
    that evaluation uses are another thing again. Accumulated gradients do not help: each batch is
    normalised on its own.

    Silent when: it has the positions of an image or a sequence to average over; only the last
    batch of an epoch is small; it uses its running statistics; the norm is over channels or
    groups of each sample.

    Source: Wu and He, Group Normalization (2018), figure 1.

    Args:
        values: Values of a channel from which on there are enough.
        patience: Looks in a row.
    """

    fix = (
        "Use nn.GroupNorm(1, channels) or nn.LayerNorm(channels) in its place, or a larger"
        " batch_size; DataLoader(drop_last=True) where only some batches are small."
    )
    symptom_of = ("batch-norm-not-synced",)

    values: int = 8
    patience: int = 5
    _accumulate: int = field(default=1, init=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Remember how many batches make an update."""
        self._accumulate = obs.accumulate
        yield from ()

    def on_batch_norms(self, obs: BatchNorms) -> Iterator[Finding]:
        """List the batch norms with too few values."""
        if obs.stage != "training":
            return
        for call in obs.calls:
            if not call.training or not 0 < call.values < self.values:
                continue
            at = f" ({call.line})" if call.line else ""
            message = (
                f"{call.place}{at} takes mean and variance of {call.values} values a channel"
                f" (input with {call.samples} on its first axis); it needs {self.values} at least."
            )
            if call.values == 2:
                message = (
                    f"{call.place}{at} takes mean and variance of 2 values a channel, so its"
                    " output is 1 and -1 whatever the values are."
                )
            if self._accumulate > 1:
                message += (
                    f" accumulate_grad_batches={self._accumulate} does not change that: each batch"
                    " is normalised on its own."
                )
            yield self.finding(
                obs,
                message,
                where=call.place,
                values=float(call.values),
                accumulate=float(self._accumulate),
            )
