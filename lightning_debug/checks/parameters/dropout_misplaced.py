"""Dropout where it does harm: on the output, of nearly everything, of whole samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import DropoutCall, Dropouts


@dataclass(kw_only=True)
class DropoutMisplaced(Check):
    """A dropout drops of the prediction itself, nearly everything, or the wrong axis.

    Why: dropped predictions are compared with the target as zeros, which is an error that
    nothing can learn to avoid; a probability of 0.9 leaves one value in ten (in other libraries
    the number is what is kept); a dropout of channels on an input that has them elsewhere, or has
    none, drops whole samples, whole time steps or single values; a probability that validation
    has set to 0 never comes back.

    Silent when: a layer lies between the dropout and the loss; it drops of data, targets or
    losses; a schedule moves the probability.

    Args:
        p: Probability from which on too little is left.
        patience: Looks in a row.
    """

    fix = "Move the dropout before the last layer."

    p: float = 0.9
    patience: int = 3

    def on_dropouts(self, obs: Dropouts) -> Iterator[Finding]:
        """List the dropouts that do harm, and the probabilities that got lost."""
        if obs.stage != "training":
            return
        for call in obs.calls:
            told = self._told(call)
            if told:
                message, fix = told
                yield self.finding(
                    obs, message, where=call.place, fix=fix, p=call.p, line=call.line
                )
        for lost in obs.lost:
            yield self.finding(
                obs,
                f"{lost.place or 'model'}.{lost.attribute} was {lost.before:g} before validation"
                " and is 0 in training since: nothing is dropped any more.",
                where=lost.place or "model",
                fix="Do not write to self in eval mode: use a local p = self.p if self.training"
                " else 0.0, or pass training=self.training.",
                before=lost.before,
            )

    def _told(self, call: DropoutCall) -> tuple[str, str] | None:
        """Return what is wrong with a dropout, and what to type."""
        name = f"{call.function} at {call.place} ({call.line}, p={call.p:g})"
        if call.p >= self.p and call.source:
            return (
                f"{name} leaves {1 - call.p:.0%} of the values.",
                f"Use p={max(0.1, round(1 - call.p, 2)):g} if {call.p:g} is meant to be the share"
                " that is kept; else 0.5 at most.",
            )
        if call.loss:
            return (
                f"{name} drops of the prediction: what it gives goes to {call.loss} with no layer"
                " in between.",
                "",
            )
        if call.drops == "values":
            return (
                f"{name} is made for channels of images and gets an input of shape"
                f" {tuple(call.shape)}: it drops single values, and later versions of torch refuse"
                " such an input.",
                "Use nn.Dropout(p) here, and nn.Dropout2d(p) before the input is flattened.",
            )
        if call.drops:
            shape = tuple(call.shape)
            what = "whole samples" if call.drops == "samples" else "whole time steps"
            return (
                f"{name} gets an input of shape {shape}, where it drops {what} instead of"
                " channels.",
                "Use nn.Dropout(p), or bring the channels to axis 1 before it: x.transpose(1, 2).",
            )
        return None
