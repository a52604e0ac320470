"""Probabilities where a loss expects logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossCall, LossCalls

SQUASHES = {"softmax": "softmax", "sigmoid": "sigmoid"}


@dataclass(kw_only=True)
class ProbabilitiesAsLogits(Check):
    """The output of a softmax or sigmoid goes into a loss that applies its own.

    Why: the loss takes numbers between 0 and 1 for logits, so the most confident prediction it
    can see is nearly a guess. The loss cannot fall below a high floor, and the gradient through
    two squashing functions is small: training is slow and ends too early.

    Silent when: log_softmax goes into cross entropy, which changes nothing; logits are small,
    cosines, rectified or between 0 and 1 by chance, because rows have to be non-negative and sum
    to 1, or the last function has to be a sigmoid or softmax that nothing has scaled since.

    Args:
        share: Smallest share of rows that are probabilities.
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Give the loss the logits: take the softmax or sigmoid out of the model, or out of the"
        " line before the loss, and apply it only where probabilities are read, such as in"
        " predict_step."
    )

    share: float = 0.99
    patience: int = 3

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Look for probabilities among the logits."""
        for call in obs.calls:
            if call.kind not in ("logits", "binary-logits"):
                continue
            reason = self._reason(call)
            if reason:
                own = "softmax" if call.kind == "logits" else "sigmoid"
                message = (
                    f"{call.function} expects logits and applies its own {own}, but it gets"
                    f" probabilities: {reason}. {_floor(call)}"
                )
                yield self.finding(
                    obs,
                    message,
                    where=call.place,
                    loss=call.value,
                    low=call.prediction.low,
                    high=call.prediction.high,
                    maker=call.prediction.maker,
                )

    def _reason(self, call: LossCall) -> str:
        made = SQUASHES.get(call.prediction.maker, "")
        classes = _classes(call)
        if call.kind == "logits" and classes < 2:
            return ""
        span = f"{call.prediction.low:.3g} to {call.prediction.high:.3g}"
        if classes > 1 and call.prediction.distributions >= self.share:
            made = f" that {made} gives" if made else ""
            return f"values of {span}{made}, and each row sums to 1"
        if made and call.prediction.width != 1:
            return f"values of {span}, made by a {made}"
        return ""


def _classes(call: LossCall) -> int:
    shape = call.prediction.shape
    if len(shape) == 1:
        return shape[0] if call.kind == "logits" else 1
    return shape[1] if shape else 0


def _floor(call: LossCall) -> str:
    """Return how low the loss can get."""
    if call.kind == "binary-logits":
        return (
            "A target of 0 then costs at least 0.693 and a target of 1 at least 0.313, however"
            f" good the model is; the loss is {call.value:.3g}."
        )
    classes = _classes(call)
    floor = math.log(1.0 + (classes - 1) / math.e)
    return (
        f"With {classes} classes the loss cannot fall below {floor:.3g}, however good the model"
        f" is; it is {call.value:.3g}."
    )
