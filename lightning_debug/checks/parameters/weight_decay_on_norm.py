"""Weight decay on what norms scale by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Updates


@dataclass(kw_only=True)
class WeightDecayOnNorm(Check):
    """Weight decay pulls the scales and shifts of norms towards zero.

    Why: decay keeps large weight matrices small, so that the function stays smooth. The scale of
    a norm is no such weight: at 0 its layer is off. Recipes for transformers and ResNets leave
    all vectors (scales, shifts, biases) out; names such as ``"LayerNorm"`` in a filter miss norms
    that are called otherwise.

    Silent when: vectors are in a group without weight decay, by whatever rule; norms have no
    scale, or are not trained; only biases are decayed; the decay is at most ``slight``.

    Source: He et al., Bag of Tricks for Image Classification (2019), "no bias decay".

    Args:
        slight: Largest weight decay that does not matter.
    """

    severity = Severity.INFO
    fix = (
        "Decay matrices only: decay = [p for p in self.parameters() if p.ndim > 1], rest ="
        " [p for p in self.parameters() if p.ndim < 2], AdamW([{'params': decay}, {'params': rest,"
        " 'weight_decay': 0.0}], ...)."
    )

    slight: float = 1e-4

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """List the vectors that decay, if scales and shifts of norms are among them."""
        vectors = {
            name: update
            for name, update in obs.parameters.items()
            if update.trainable and not update.fan_in and update.weight_decay > self.slight
        }
        norms = [name for name, update in vectors.items() if update.normalizes]
        if norms:
            others = len(vectors) - len(norms)
            rest = f", and {others} other vectors such as biases" if others else ""
            largest = max(vectors[name].weight_decay for name in norms)
            message = (
                f"weight_decay={largest:g} of {obs.optimizer} also pulls {len(norms)} scales and"
                f" shifts of norms towards 0, first {norms[0]}{rest}."
            )
            yield self.finding(
                obs, message, where=obs.optimizer, norms=len(norms), weight_decay=largest
            )
