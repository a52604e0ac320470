"""The numbers of one look, for the sinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Look:
    """The numbers of one look.

    Attributes:
        step, epoch: Where in the run it was made.
        scalars: A few numbers by name, such as ``"gradient-norm/encoder"``.
        layers: The numbers of each layer, by the names of :data:`lightning_debug.layers.METRICS`
            and then by layer.
        losses: The losses since the look before, as ``(step, loss)``.
    """

    step: int
    epoch: int
    scalars: Mapping[str, float] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    losses: tuple[tuple[int, float], ...] = ()
