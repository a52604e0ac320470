"""Dropout that is on in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import DropoutCall, Dropouts

ATTENTION = "scaled_dot_product_attention"


@dataclass(kw_only=True)
class DropoutActiveInEval(Check):
    """Validation drops values at random, though the module that does so is in eval mode.

    Why: ``F.dropout(x, p)`` drops whatever the mode of the module is, and so does an attention
    function with ``dropout_p``; validation metrics and predictions are worse than the model, and
    another pass over the same data gives others.

    Silent when: the model samples one input three times or more (Monte Carlo dropout); the
    dropout modules are in train mode; the flag has a name of its own
    (``training=self.monte_carlo``), or is True in a module that does nothing else; p is 0.

    Args:
        passes: Runs of one input in a batch from which on it is sampled on purpose.
    """

    fix = (
        "Pass training=self.training: F.dropout(x, p, training=self.training), or use nn.Dropout(p)"
        " made in __init__; if it is meant, ignore=['dropout-active-in-eval:PLACE']."
    )
    severity = Severity.ERROR

    passes: int = 3

    def on_dropouts(self, obs: Dropouts) -> Iterator[Finding]:
        """List the dropouts that were on in validation."""
        if obs.stage != "validation":
            return
        for call in obs.calls:
            if call.declared or call.passes >= self.passes:
                continue
            yield self.finding(
                obs,
                f"{_what(call)} is on in validation, while {call.place} is in eval mode.",
                where=call.place,
                fix=_fix(call),
                p=call.p,
                line=call.line,
            )


def _what(call: DropoutCall) -> str:
    at = f" at {call.line}" if call.line else ""
    if call.outside:
        return (
            f"Dropout of a module that the model does not know ({call.function}, p={call.p:g}){at}"
        )
    return f"{call.function} with p={call.p:g}{at}"


def _fix(call: DropoutCall) -> str:
    if call.function == ATTENTION:
        return "Pass dropout_p=self.dropout if self.training else 0.0."
    if call.outside:
        return (
            "Make the dropout in __init__ and assign it to the module (in an nn.ModuleList, not in"
            " a list), so that eval() reaches it."
        )
    return ""
