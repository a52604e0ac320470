"""Weight layers with nothing non-linear between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import DataFlow


@dataclass(kw_only=True)
class NonLinearityMissing(Check):
    """A weight layer feeds another one with no activation function in between.

    Why: two linear maps in a row are one linear map. The second layer costs parameters and adds
    nothing that the network can express.

    Silent when: anything bends, pools, adds or splits the output on the way, or uses it elsewhere
    too, at any look (layers between them that are skipped at random); the middle is narrower than
    both ends (low rank, adapters, latent codes); the layers are projections of an attention or of
    a gate (GLU), convolutions in groups, separable, or over patches, or a vector made into a map.
    Where a part of the model with several layers ends and another begins (encoder and head), or a
    batch norm stands between them in a model without any activation, it is only said as
    information.

    Args:
        patience: Looks in a row.
    """

    fix = "Put an activation function between them, such as nn.ReLU(), or merge them into one."

    patience: int = 8
    _bent: set[str] = field(default_factory=set, init=False, repr=False)

    def on_data_flow(self, obs: DataFlow) -> Iterator[Finding]:
        """List the pairs of layers that could be one."""
        self._bent.update(obs.bent)
        missing = [
            pair
            for pair in obs.linear_pairs
            if pair.first not in self._bent and pair.middle >= min(pair.inner, pair.outer)
        ]
        # A batch norm is something, if nothing that bends. Where other layers have an activation,
        # this one has lost its own.
        # The last layer is one of those whose output goes elsewhere.
        normed = "batch_norm" if len(self._bent) < 2 else None
        bare = [pair for pair in missing if not pair.seam and normed not in pair.through]
        for pair in bare or missing:
            way = f"only {' and '.join(dict.fromkeys(pair.through))}" if pair.through else "nothing"
            line = f" ({pair.line})" if pair.line else ""
            message = (
                f"{pair.first} feeds {pair.second}{line} with {way} in between: the two are one"
                f" linear map from {pair.inner} to {pair.outer} features, through {pair.middle}."
            )
            yield self.finding(
                obs,
                message,
                where=f"{pair.first} -> {pair.second}",
                severity=None if bare else Severity.INFO,
                middle=float(pair.middle),
            )
