"""How the processes that train together agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTensor:
    """A tensor of which each process has a copy of its own, and the copies are not equal.

    The numbers are relative distances: of the norm in this process from the root mean square of
    the norms in all of them; 0 where they agree.

    Attributes:
        kind: ``"parameter"`` or ``"buffer"``.
        weight: Distance of the values.
        gradient: Distance of the gradients that the optimizers use.
        update: Distance of what a step has changed.
        changes: Whether it has changed from one look to another, in this process.
        early: Whether it differed at the first look, before any update.
    """

    kind: str = "parameter"
    weight: float = 0.0
    gradient: float = 0.0
    update: float = 0.0
    changes: bool = True
    early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks(Observation):
    """What one sum over all processes tells, at one look.

    Attributes:
        processes: How many of them train together.
        rank: Which of them this is.
        compared: Number of tensors that were compared.
        tensors: Those that differ, by name.
        farthest: Ranks of the processes that were farthest from the others at the look before;
            empty where nothing differed or two processes differ from each other.
        batch, targets: One number for the batch of this process in its order, and one for its
            targets where they are no classes; nan where all of its samples are alike.
        same_batch, same_targets: Groups of ranks that have the same, though the trainer wants
            them to have different ones.
    """

    processes: int = 2
    rank: int = 0
    compared: int = 0
    tensors: Mapping[str, RankTensor] = field(default_factory=dict)
    farthest: tuple[int, ...] = ()
    batch: float = float("nan")
    targets: float = float("nan")
    same_batch: tuple[tuple[int, ...], ...] = ()
    same_targets: tuple[tuple[int, ...], ...] = ()
