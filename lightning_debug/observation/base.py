"""What all observations share."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Something that was measured after ``step`` optimizer updates."""

    step: int = 0
    epoch: int = 0

    @property
    def stream(self) -> str:
        """Return which of several series of its kind it belongs to: looks in a row are of one."""
        return ""

    @property
    def summary(self) -> str:
        """Return what was seen in a few words, where that is worth saying though all is well."""
        return ""

    @property
    def curve(self) -> tuple[float, ...]:
        """Return the loss of each step of a training of a copy, where there was one."""
        return ()


def owner(parameter: str) -> str:
    """Return the path of the module that owns a parameter: ``"net.0.weight"`` -> ``"net.0"``."""
    return parameter.rpartition(".")[0]


def hook(kind: type[Observation]) -> str:
    """Return the name of the check method for a kind: ``LossCalls`` -> ``"on_loss_calls"``."""
    return "on_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
