"""Something else where a loss expects log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossCall, LossCalls

CTC = "ctc_loss"
CTC_FIX = (
    "Give it log-probabilities over the classes, shape (T, N, C):"
    " F.ctc_loss(torch.log_softmax(logits, dim=-1), ...)."
)


@dataclass(kw_only=True)
class NotLogProbabilities(Check):
    """The input of nll_loss, kl_div or ctc_loss is not the logarithm of probabilities.

    Why: these losses take the logarithm for granted and only pick, weigh or add up its values. Of
    probabilities or raw logits they are no likelihood: the loss is negative, has no lower bound
    or hardly any gradient, and falls without the model getting better. The gradient that torch
    gives for ctc_loss is right for the output of a log_softmax only.

    Silent when: rows are log-probabilities up to a small constant inside the logarithm, over any
    axis; they are weighted on purpose (focal loss, policy gradient), which keeps all values of a
    row on one side of zero; they are logarithms of single events, which are never positive.

    Args:
        share: Smallest share of rows that are probabilities, or have values of both signs.
        distance: Distance of the logsumexp of a row from 0 that rounding cannot explain.
        positive: Value above zero, of a ctc_loss below, that rounding cannot explain.
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Give it log-probabilities: torch.log_softmax(logits, dim=1), not softmax and not the"
        " logits themselves. For nll_loss, F.cross_entropy(logits, target) does both."
    )

    share: float = 0.5
    distance: float = 0.2
    positive: float = 0.1
    patience: int = 3

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Look for rows that no log-probabilities give."""
        for call in obs.calls:
            expected = call.kind == "log-probabilities" or call.function == CTC
            what = self._what(call) if expected else ""
            if what:
                message = (
                    f"{call.function} expects log-probabilities, but gets {what}. The loss is"
                    f" {call.value:.3g}."
                )
                yield self.finding(
                    obs,
                    message,
                    where=call.place,
                    fix=CTC_FIX if call.function == CTC else "",
                    loss=call.value,
                    low=call.prediction.low,
                    high=call.prediction.high,
                )

    def _what(self, call: LossCall) -> str:
        rows = call.prediction
        span = f"values of {rows.low:.3g} to {rows.high:.3g}"
        axis = -1 if call.function == CTC else 1
        picks = call.function in ("nll_loss", CTC)
        off = rows.normaliser > self.distance or not picks
        columns = len(rows.shape) > 1 and rows.shape[axis] > 1
        if columns and rows.distributions >= self.share:
            return f"probabilities: {span}, each row sums to 1"
        if rows.low >= 0.0 and rows.high > self.positive:
            return f"{span}, none of them negative, as no logarithm of probabilities is"
        if off and rows.mixed >= self.share and rows.high > self.positive:
            return f"raw scores: {span}, on both sides of zero in most rows"
        if picks and off and rows.maker == "log_softmax" and rows.whole and columns:
            return (
                "a log_softmax over another axis than that of the classes: the logsumexp over"
                f" axis {axis} is {rows.normaliser:.3g} away from 0 on average"
            )
        if call.function == CTC and off and call.value < -self.positive:
            return f"raw scores: {span}, by which the targets have a probability above 1"
        return ""
