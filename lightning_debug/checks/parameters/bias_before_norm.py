"""Biases that a norm takes away again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import BatchNorms


@dataclass(kw_only=True)
class BiasBeforeNorm(Check):
    """A layer has a bias, and what it gives goes straight into a norm that subtracts it.

    Why: the norm subtracts from each channel its mean, and the bias with it; the bias has no
    effect and no gradient, and the norm has a bias of its own. It does no harm either.

    Silent when: the norm is over several channels of each sample (layer norm, group norm); an
    activation lies between them; the layer feeds something else too.

    Args:
        share: Largest gradient of the bias, as a share of that of the weight.
        patience: Looks in a row.
    """

    fix = "Give the layer bias=False."
    severity = Severity.INFO

    share: float = 1e-3
    patience: int = 3

    def on_batch_norms(self, obs: BatchNorms) -> Iterator[Finding]:
        """List the layers."""
        for bias in obs.biases:
            if bias.share <= self.share:
                yield self.finding(
                    obs,
                    f"The bias of {bias.place} is subtracted again by {bias.norm}: its gradient is"
                    f" {bias.share:.1g} of that of the weight.",
                    where=bias.place,
                    share=bias.share,
                )
