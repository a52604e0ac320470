"""The state before the first step, and the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation
from lightning_debug.observation.data import Loader


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterStart:
    """A parameter before the first step of the run.

    Attributes:
        rms: Root mean square of a strided sample of its elements.
        largest: Largest magnitude in the sample.
        fan_in: Inputs of one unit, ``numel / shape[0]``; 0 for vectors and scalars.
        identical_units: Whether it has several units and all of them hold the same values.
    """

    shape: tuple[int, ...]
    module: str = ""
    trainable: bool = True
    optimizer: str = ""
    rms: float = 1.0
    largest: float = 1.0
    fan_in: int = 0
    identical_units: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Observation):
    """Who owns, trains and optimizes which tensor when training starts, and what the data are.

    Attributes:
        parameters: All of the model, by name.
        resumed: Whether training goes on from a checkpoint.
        seeded: Whether somebody has seeded the random numbers, with Lightning or by hand.
        loader: What is known of the training data.
    """

    parameters: Mapping[str, ParameterStart] = field(default_factory=dict)
    resumed: bool = False
    seeded: bool = True
    loader: Loader = field(default_factory=Loader)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(Observation):
    """The run is over, or was interrupted."""

    completed: bool = True
