"""Weights that are meant to be one and are two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Connections, Tie


@dataclass(kw_only=True)
class TiedWeightsLost(Check):
    """Two parameters that are meant to be one are trained apart.

    Why: each gets its own gradient, its own optimizer state and its own steps, so they drift
    apart, or one is moved twice where they share memory. The model has more weights than it was
    designed with, and a checkpoint may be loaded into one of them only.

    Silent when: they are one object and stay one; one of them is frozen or follows the other (a
    teacher, a moving average); layers were copied from each other (a stack of equal layers,
    siamese towers); they are equal because both are constant.

    Args:
        patience: Looks in a row.
    """

    fix = (
        "Assign the parameter itself, self.head.weight = self.embedding.weight, as the last thing"
        " that touches either: after resizing, wrapping and loading; no .clone(), .data, copy_()"
        " or new nn.Parameter."
    )

    patience: int = 3

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """List the pairs that are two."""
        for tie in obs.ties:
            message = _message(tie)
            if message:
                yield self.finding(obs, message, where=tie.second, first=tie.first, kind=tie.kind)


def _message(tie: Tie) -> str:
    if tie.kind == "memory":
        return (
            f"{tie.second} and {tie.first} are two parameters over the same memory: each has a"
            " gradient of its own, and the optimizer moves the same values twice."
        )
    if tie.kind == "copy":
        return (
            f"{tie.second} started as an exact copy of {tie.first}, and each is trained for"
            " itself: an output layer that is copied from an embedding is not tied to it."
            if tie.apart
            else ""
        )
    return (
        f"{tie.second} and {tie.first} were one parameter when the trainer got the model, and are"
        " two now, each trained for itself."
    )
