"""Inputs that change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import IgnoredInput, InputUse


@dataclass(kw_only=True)
class IgnoresInput(Check):
    """The model is given an input, or a part of one, that changes nothing it puts out.

    Why: what the input knows is lost, and the rest must do without it: a wrong variable, a wrong
    index, a layer that is multiplied by zero.

    Silent when: the input is the same for all samples, or a mask, a length or an index; a branch
    opens after the first updates (gates that start at zero); gradients pass through (hard
    decisions); fewer than a quarter of the columns of a table do nothing.

    Args:
        patience: Experiments in a row: before the first update, and after some.
    """

    fix = (
        "Follow the input through forward(): look for another variable used in its place, an index"
        " or slice that drops it (out[:, 0] of an LSTM knows the first step only), and a factor"
        " that is always 0."
    )
    severity = Severity.ERROR
    symptom_of = ("batch-mixing", "activation-collapse", "dead-relu", "symmetric-init")

    patience: int = 2

    def on_input_use(self, obs: InputUse) -> Iterator[Finding]:
        """Name the input."""
        for ignored in obs.ignored:
            module = ignored.place or "the model"
            yield self.finding(
                obs,
                _message(ignored, module),
                where=f"{ignored.source} of {module}" if ignored.part == "all" else ignored.source,
                size=float(ignored.size),
            )


def _message(ignored: IgnoredInput, module: str) -> str:
    if ignored.part == "columns":
        return (
            f"Columns {ignored.first} to {ignored.last} of the {ignored.size} of {ignored.source}"
            " go into the model and change neither its outputs nor the loss."
        )
    if ignored.part == "positions":
        return (
            f"Of the {ignored.size} positions of {ignored.source} only position {ignored.first}"
            " changes the outputs or the loss."
        )
    return (
        f"The input {ignored.source} of {module} changes none of its outputs: those for other"
        " samples were put in its place."
    )
