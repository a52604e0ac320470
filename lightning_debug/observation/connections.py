"""How the parts of the model are wired together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A parameter that the training step computed with and that the model does not know.

    Attributes:
        where: Where the user holds it, such as ``"net.layers[1].weight"``; for one that is made
            anew each time, what it is and where it runs.
        kind: Class of the module that owns it; ``"Parameter"`` for one that no module owns.
        place: Path of the registered module that used it; empty for the training step.
        line: The line of the user's code that used it.
        anew: Whether the one of the last look has gone and another is in its place.
        moved: Whether its values differ from those of the last look; None where that is not known.
        optimizer: Class of an optimizer that holds it and steps; empty for none.
        copied: Whether it was equal to a parameter of the model when it was first used here.
        adapted: Whether its values changed between its first use and the end of the batch.
        resting: Whether its module was put in eval mode.
        gradient: Whether backward wrote a gradient for it.
    """

    where: str
    kind: str = "Linear"
    place: str = ""
    line: str = ""
    anew: bool = False
    moved: bool | None = False
    optimizer: str = ""
    copied: bool = False
    adapted: bool = False
    resting: bool = False
    gradient: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientUse:
    """Where the gradients come from that one step of an optimizer used.

    Attributes:
        optimizer: The one that made the step.
        empty: Whether there were none.
        cleared: Whether backward had written some for the same batch, and none are left.
        known: Whether all that happened since its step before was seen.
        again: Whether they hold what it had used in an earlier step, which nothing cleared.
        source: The other optimizer for whose loss a part of them was written; empty for none.
        batches: How many batches wrote them since its step before.
        factor: What they were multiplied by between the last backward and the step.
        weights: For each backward that wrote them, the constant before a term of its loss, where
            there are several terms the one closest to 1; nan where the loss is not known.
        scaled: Whether a term was multiplied or divided by a tensor.
        summed: Whether a term is a sum over the batch.
        alone: Whether no other optimizer made a step since its step before.
    """

    optimizer: str
    empty: bool = False
    cleared: bool = False
    known: bool = True
    again: bool = False
    source: str = ""
    batches: int = 1
    factor: float = 1.0
    weights: tuple[float, ...] = ()
    scaled: bool = False
    summed: bool = False
    alone: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """Two parameters that are meant to be one.

    Attributes:
        first, second: Their names.
        kind: ``"parted"`` for one that has become two, ``"memory"`` for two objects over the same
            memory, ``"copy"`` for an output layer that started as a copy of an embedding.
        apart: Whether their values differ by now.
    """

    first: str
    second: str
    kind: str = "parted"
    apart: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """What has happened to the weights between two epochs, when no optimizer ran.

    Attributes:
        epoch: The one that begins.
        drawn: Share of the weight matrices that are not correlated any more with what they were.
        restored: Share of those that are, to the last digit, what they were when training began,
            though the epoch before has changed them.
    """

    epoch: int = 1
    drawn: float = 0.0
    restored: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A tensor that an optimizer holds and that is no part of the model any more.

    Attributes:
        optimizer: The optimizer.
        shape: Of the tensor.
    """

    optimizer: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections(Observation):
    """Which tensors are registered, tied and cleared, at one look.

    Attributes:
        strangers: Parameters that are not registered.
        uses: The steps of optimizers, in order.
        ties: Parameters that should be one.
        rewrites: What has happened between epochs since the last look.
        strays: For parameters that no optimizer holds, the tensor that one holds in their place.
        backwards: How many backward passes there were.
    """

    strangers: tuple[Stranger, ...] = ()
    uses: tuple[GradientUse, ...] = ()
    ties: tuple[Tie, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    strays: Mapping[str, Stray] = field(default_factory=dict)
    backwards: int = 1
