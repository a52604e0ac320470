"""Dropout or noise that is on in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import DropoutCall, Dropouts

ATTENTION = "scaled_dot_product_attention"
RRELU = "rrelu"


@dataclass(kw_only=True)
class DropoutActiveInEval(Check):
    """Validation drops values or adds noise, though the module that does so is in eval mode.

    Why: ``F.dropout(x, p)`` drops whatever the mode of the module is, and so does an attention
    function with ``dropout_p``, and noise is added where there is no ``if self.training``;
    validation metrics and predictions are worse than the model, and another pass over the same
    data gives others.

    Silent when: the model samples one input three times or more (Monte Carlo dropout); the
    dropout modules are in train mode; the flag has a name of its own
    (``training=self.monte_carlo``), or is True in a module that does nothing else; p is 0. Noise:
    its scale is learned, or a sampler of torch draws it; it is an input of its own; what it is
    added to is the target, or a code of it; the step adds it; it is small.

    Args:
        passes: Runs of one input in a batch from which on it is sampled on purpose.
        noise: Smallest spread of noise, relative to that of what it is added to; less than that
            is meant to keep values apart.
    """

    fix = (
        "Pass training=self.training: F.dropout(x, p, training=self.training), or use nn.Dropout(p)"
        " made in __init__; if it is meant, ignore=['dropout-active-in-eval:PLACE']."
    )
    severity = Severity.ERROR

    passes: int = 3
    noise: float = 0.01

    def on_dropouts(self, obs: Dropouts) -> Iterator[Finding]:
        """List the dropouts that were on in validation."""
        if obs.stage != "validation":
            return
        for call in obs.calls:
            if call.declared or call.passes >= self.passes or 0.0 < call.noise < self.noise:
                continue
            yield self.finding(
                obs,
                f"{_what(call)} is on in validation, while {call.place} is in eval mode.",
                where=call.place,
                fix=_fix(call),
                line=call.line,
                p=call.p,
                noise=call.noise,
            )


def _what(call: DropoutCall) -> str:
    at = f" at {call.line}" if call.line else ""
    if call.noise:
        return f"Noise ({call.function}{at}, {call.noise:.0%} of the spread of what it is added to)"
    if call.outside:
        return (
            f"Dropout of a module that the model does not know ({call.function}, p={call.p:g}){at}"
        )
    what = "random slopes" if call.function == RRELU else f"p={call.p:g}"
    return f"{call.function} with {what}{at}"


def _fix(call: DropoutCall) -> str:
    if call.noise:
        return "Add it in training only: if self.training: x = x + noise."
    if call.function == RRELU:
        return "Pass training=self.training, or use nn.RReLU() made in __init__."
    if call.function == ATTENTION:
        return "Pass dropout_p=self.dropout if self.training else 0.0."
    if call.outside:
        return (
            "Make the dropout in __init__ and assign it to the module (in an nn.ModuleList, not in"
            " a list), so that eval() reaches it."
        )
    return ""
