"""Padding that counts as a target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Ends, LossCall, LossCalls


@dataclass(kw_only=True)
class PaddingInLoss(Check):
    """The padding at the ends of sequences counts in the loss.

    Why: padding is the easiest target there is. The loss falls fast because the model learns to
    predict padding, the real tokens get a small part of the gradient, and the loss of a batch
    depends on how long its longest sequence is.

    Silent when: the symbol is ignored, has weight 0 or the loss is masked by hand; it also stands
    inside the sequences, like the O tag of entity recognition or a background class; runs have
    the same length in all sequences; each sequence just ends with one end token.

    Args:
        share: Smallest share of all targets that is padding.
        dominance: Smallest ratio of that share to the share of the next most frequent class.
        inside: Smallest share of its occurrences that lie in the runs at the ends.
        rows: Smallest share of sequences with a run of two or more.
        varied: Smallest standard deviation of the length of the runs.
        classes: Fewest classes; of two, one may simply follow the other.
        patience: Looks in a row.
    """

    fix = (
        "Leave padding out: F.cross_entropy(logits, targets, ignore_index=PAD), or pad the targets"
        " with -100, which is ignored by default."
    )

    share: float = 0.15
    dominance: float = 1.5
    inside: float = 0.98
    rows: float = 0.3
    varied: float = 0.7
    classes: int = 4
    patience: int = 5

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Look for one class that fills the ends of sequences."""
        for call in obs.calls:
            if call.reduction == "none" or call.target.distinct < self.classes:
                continue
            found = next((end for end in call.ends if self._pads(call, end)), None)
            if found is not None:
                pad = int(found.symbol)
                message = (
                    f"{found.share:.0%} of the targets of {call.function} are class {pad}, all of"
                    f" them in runs at the {found.side} of the sequences; they look"
                    " like padding, and they count in the loss."
                )
                yield self.finding(
                    obs,
                    message,
                    where=call.place,
                    fix=self.fix.replace("PAD", str(pad)),
                    share=found.share,
                    symbol=found.symbol,
                )

    def _pads(self, call: LossCall, end: Ends) -> bool:
        counts = end.symbol != call.ignored and end.symbol >= 0.0 and end.weight != 0.0
        return (
            counts
            and end.share >= max(self.share, self.dominance * end.next_share)
            and end.inside >= self.inside
            and end.rows >= self.rows
            and end.varied >= self.varied
        )
