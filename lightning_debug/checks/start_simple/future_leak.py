"""Predictions that can be read off the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import FutureLeak as Seen
from lightning_debug.observation import Leak

FIXES = {
    "copy": (
        "Shift the target by one: logits = self(ids[:, :-1]); loss = F.cross_entropy("
        "logits.flatten(0, 1), ids[:, 1:].flatten())."
    ),
    "column": "Leave the target out of the input, and end the window before the target.",
}


@dataclass(kw_only=True)
class FutureLeak(Check):
    """A model that predicts what comes next is shown what comes next.

    Why: the loss falls far below what is possible, in validation as well, and the model is of no
    use where the future is not known.

    Silent when: the targets of the loss are not the input some positions later (encoders,
    taggers, autoencoders, masked tokens), whatever scale and offset the step gives them; the
    prediction of a position depends on the input before it only, or the target is also reached
    without looking ahead (sources of an encoder-decoder).

    Args:
        column_patience: Looks in a row at which the target must be one value of the input.
    """

    fix = (
        "Pass a causal mask (mask=nn.Transformer.generate_square_subsequent_mask(T), or"
        " is_causal=True), pad convolutions on the left only (F.pad(x, (kernel - 1, 0))), make"
        " recurrent layers unidirectional, and normalise or pool over features, not over time."
    )
    severity = Severity.ERROR

    column_patience: int = 2

    def on_future_leak(self, obs: Seen) -> Iterator[Finding]:
        """Name the module that looks ahead."""
        for leak in obs.leaks:
            yield self.finding(
                obs,
                _message(leak),
                where=leak.place,
                fix=FIXES.get(leak.kind, self.fix),
                patience=self.column_patience if leak.kind == "column" else 0,
                shift=float(leak.shift),
                position=float(leak.position),
                source=leak.source,
            )


def _message(leak: Leak) -> str:
    if leak.kind == "copy":
        return (
            f"The target of {leak.function} is the input {leak.source} at the same position, and"
            " the model, which looks at no later ones, sees it: it learns to copy."
        )
    if leak.kind == "column":
        scaled = ", but for its scale," if leak.scaled else ""
        return (
            f"The target of {leak.function} equals{scaled} value {leak.position} of the"
            f" {leak.length} of the input {leak.source} in every sample, and the prediction"
            " depends on it."
        )
    module = f" ({leak.module})" if leak.module else ""
    return (
        f"The target of {leak.function} is the input {leak.source}"
        + (f", {leak.shift} position{'s' * (leak.shift > 1)} later" if leak.shift else "")
        + f", but in {leak.place}{module} the output for position {leak.position} of"
        f" {leak.length} changes with the input from that target on."
    )
