"""What the run is set up to do: updates, batches, optimizers, schedules, clipping, precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """One parameter group of an optimizer, when training starts.

    Attributes:
        index: Its number in the optimizer.
        parameters: Names of its parameters in the model.
        settings: Its plain settings, such as ``lr``, ``momentum`` or ``weight_decay``; numbers
            that are kept in tensors are read, pairs (``betas``) are left out.
        beta: The decay of its running mean of gradients, of an optimizer with ``betas``.
        decay: Where its weight decay goes: ``"gradient"``, ``"adaptive"`` (a gradient whose size
            the step does not keep) or ``"decoupled"``; empty without one, or if nothing tells.
    """

    index: int = 0
    parameters: tuple[str, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    beta: float = float("nan")
    decay: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerPlan:
    """One optimizer, when training starts.

    Attributes:
        label: Which one, such as ``"AdamW"`` or ``"SGD 1"`` where there are several.
        kind: Its class.
    """

    label: str
    kind: str = "Adam"
    groups: tuple[GroupPlan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Observation):
    """What the run is set up to do, when training starts.

    Attributes:
        updates: Optimizer updates that the run will make; 0 where nobody can tell.
        epochs: Epochs that the run will make; 0 where nobody can tell.
        batches: Training batches of an epoch; 0 where nobody can tell.
        accumulate: Batches whose gradients make one update.
        automatic: Whether Lightning runs the optimizers.
        precision: Lightning's name for it, such as ``"16-mixed"``.
        processes: How many of them train together.
        clip_value: Lightning's limit on gradients; 0 for none.
        clip_algorithm: ``"norm"`` or ``"value"``.
        optimizers: All of them.
        trials: Whether copies are to be trained, if that is possible.
    """

    updates: int = 0
    epochs: int = 0
    batches: int = 0
    accumulate: int = 1
    automatic: bool = True
    precision: str = "32-true"
    processes: int = 1
    clip_value: float = 0.0
    clip_algorithm: str = "norm"
    optimizers: tuple[OptimizerPlan, ...] = ()
    trials: bool = False
