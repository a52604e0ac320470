"""What is drawn of a network: data only, shown by the sinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["input", "module", "function", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One box of a network: a leaf module, a function that joins tensors, an input or the loss.

    Attributes:
        name: Unique: the path of a module, ``"encoder > add 2"`` for a function, ``"batch[0]"``.
        kind: Class name of a module, name of a function, ``"input"`` or ``"loss"``.
        role: What it is.
        shape: Of its output, the batch first; empty where it gave no tensor.
        input_shape: Of the first tensor that it took.
        parameters, trainable: How many numbers it owns, and how many of them are trained.
        calls: How often it ran in one training step.
    """

    name: str
    kind: str
    role: Role = "module"
    shape: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    parameters: int = 0
    trainable: int = 0
    calls: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network as it was executed in one training step.

    Attributes:
        step: Optimizer updates made before.
        nodes: In the order of execution.
        edges: Names of the two ends of each: who gave a tensor, and who took it.
        more: Number of nodes that were left out because there were too many.
    """

    step: int = 0
    nodes: tuple[Node, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many values of a tensor lie where.

    Attributes:
        kind: ``"weights"``, ``"gradients"`` or ``"activations"``.
        place: The parameter or the module.
        step: Optimizer updates made before.
        low, high: Where the first bin begins and the last one ends; all bins are equally wide.
        counts: Number of values in each bin.
    """

    kind: str
    place: str
    step: int
    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """A picture in pixels: filters, feature maps, saliency.

    Attributes:
        kind: ``"filters"``, ``"feature maps"``, ``"saliency"``, ``"Grad-CAM"`` or ``"units"``.
        place: The parameter, the module, or the input.
        step: Optimizer updates made before.
        caption: What is to be seen, in words: also for those who cannot see it.
        pixels: Shape (height, width) for grey or (height, width, 3) for colours, ``uint8``.
    """

    kind: str
    place: str
    step: int
    caption: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """A number for each of a few things, such as the strength of the gradient by column.

    Attributes:
        kind: ``"input gradients"`` or ``"firing units"``.
        place: The input or the module.
        step: Optimizer updates made before.
        caption: What the numbers are, with their unit.
        labels, values: The things and their numbers, of one length.
    """

    kind: str
    place: str
    step: int
    caption: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


Picture = Network | Histogram | Image | Bars


def fields_of(picture: Any) -> dict[str, Any]:
    """Return the fields of a picture, or of a part of one, by name."""
    return {name: getattr(picture, name) for name in picture.__dataclass_fields__}
