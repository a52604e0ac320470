"""Dropout that feeds a batch norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import DataFlow


@dataclass(kw_only=True)
class DropoutBeforeBatchNorm(Check):
    """A batch norm is fed from a dropout, and learns a variance that evaluation does not have.

    Why: dropout raises the variance in training; the running statistics of the batch norm record
    it. In evaluation the dropout is off, the variance is smaller, and everything is normalised
    by the wrong number.

    Silent when: a weight layer or another norm lies between them; the batch norm runs first,
    whatever the order of registration; the shift is small (dropout of 5 %).

    Source: Li et al., Understanding the Disharmony between Dropout and Batch Normalization by
    Variance Shift (2018).

    Args:
        shift: Smallest ratio of the variance in training to that in evaluation.
        patience: Looks in a row.
    """

    fix = "Put the dropout after the batch norm, or after the last one of the network."

    shift: float = 1.08
    patience: int = 3

    def on_data_flow(self, obs: DataFlow) -> Iterator[Finding]:
        """List the batch norms that a dropout feeds."""
        for pair in obs.dropped_norms:
            if pair.shift >= self.shift:
                way = f" through {', '.join(pair.through)}" if pair.through else ""
                message = (
                    f"{pair.dropout} (p={pair.p:g}) feeds {pair.norm}{way}: its input has"
                    f" {pair.shift:.2f} times the variance in training that it has in evaluation."
                )
                yield self.finding(
                    obs, message, where=pair.norm, shift=pair.shift, dropout=pair.dropout
                )
