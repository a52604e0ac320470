"""One comparison of a prediction with a target, as it was heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A loss that compared a prediction with a target.

    Attributes:
        function: Name of the function or of the criterion class.
        kind: What it takes the prediction for: ``"logits"`` (classes on axis 1),
            ``"binary-logits"``, ``"log-probabilities"``, ``"probabilities"``, ``"regression"`` or
            ``"other"``.
        place: Where it was called: the module path, or ``"training_step"``.
        prediction: The side that carries a gradient, with its graph.
        target: The other side.
        given: Of a loss that is spelled out, what the user's code took for it; ``target`` may be
            another layout of that.
        value: What came out.
        node: The node of the graph that made it.
        parts: The errors one by one, in the graph, where nothing has added them up yet.
        reduction: ``"mean"``, ``"sum"``, ``"batchmean"`` or ``"none"``.
        weight: Weights of the classes, of the positive class or of the samples, if given.
        class_weights: Of these the ones of the classes, from the first to the last.
        ignored: The target that does not count, if there is one.
        again: The same call on another prediction, if it can be repeated.
        every: Which samples ``again`` takes: of a large prediction each second one, say.
    """

    function: str
    kind: str
    place: str
    prediction: Tensor
    target: Tensor
    value: Tensor
    given: Tensor | None = None
    node: Node | None = None
    parts: Tensor | None = None
    reduction: str = "mean"
    weight: Tensor | None = None
    class_weights: Tensor | None = None
    ignored: int | None = None
    again: Callable[[Tensor], Tensor] | None = None
    every: int = 1
