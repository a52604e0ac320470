"""Predictions and targets that are paired all with all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossCall, LossCalls

PRODUCT = "handwritten product"
POINTWISE = frozenset(
    ["gaussian_nll_loss", "poisson_nll_loss", "kl_div", "handwritten error", PRODUCT]
)
Shape = tuple[int, ...]


@dataclass(kw_only=True)
class TargetBroadcast(Check):
    """A prediction and a target of different shapes are broadcast, so all meet all.

    Why: (N, 1) against (N,) gives (N, N): each prediction is held against the targets of all
    samples, and the best answer is the same for every sample, the mean. The loss stops at the
    variance of the targets, and torch says so only once, if at all. Products (log-probabilities
    times targets or advantages, errors times weights) become the product of two means, in which
    no sample has a target or a weight of its own.

    Silent when: one target is meant for several heads, quantiles or members of an ensemble, so
    one side already has the shape of the result; both have the same number of axes, as where
    pairs are built on purpose; a loss that is spelled out does more with the differences than to
    take one mean or sum of all of them (kernels, nearest neighbours), or with the products more
    than to scale and add them up (masks, bilinear scores, polynomial kernels); the batch has one
    sample.

    Args:
        samples: Fewest samples of a batch for a target of shape (N, N) against N predictions, and
            for products.
        square_patience: Looks in a row for such a target or product; it may be a coincidence once.
    """

    severity = Severity.ERROR
    fix = (
        "Give both the same shape: prediction.squeeze(-1), target.unsqueeze(1) or"
        " target.view_as(prediction)."
    )

    samples: int = 8
    square_patience: int = 3

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Compare the two shapes."""
        for call in obs.calls:
            if call.kind != "regression" and call.function not in POINTWISE:
                continue
            result = _broadcast(call.prediction.shape, call.target.shape)
            if result is None:
                continue
            if self._doubled(call, result):
                product = call.function == PRODUCT
                if not product or max(call.prediction.shape) >= self.samples:
                    patience = self.square_patience if product else 0
                    yield self._tell(obs, call, result, patience=patience)
            elif self._square(call):
                yield self._tell(obs, call, result, patience=self.square_patience)

    def _doubled(self, call: LossCall, result: Shape) -> bool:
        """Tell whether the same values, in two layouts, gave more of them."""
        mine, theirs = call.prediction.shape, call.target.shape
        numel = math.prod(mine)
        return (
            len(mine) != len(theirs)
            and _squeezed(mine) == _squeezed(theirs)
            and math.prod(result) > numel
        )

    def _square(self, call: LossCall) -> bool:
        """Tell whether the target was broadcast before: (N, N) against N predictions."""
        mine, theirs = call.prediction.shape, call.target.shape
        n = math.prod(mine)
        return n >= self.samples and len(_squeezed(mine)) == 1 and theirs == (n, n)

    def _tell(self, obs: LossCalls, call: LossCall, result: Shape, patience: int) -> Finding:
        mine, theirs = call.prediction.shape, call.target.shape
        message = (
            f"{call.function} compares a prediction of shape {mine} with a target of shape"
            f" {theirs}. They broadcast to {result}, so {math.prod(result)} differences are"
            f" taken where there are {math.prod(mine)} predictions, each against the targets of"
            " other samples."
        )
        if call.function == PRODUCT:
            message = (
                f"The loss is made of a product of {mine} and {theirs}, of which the first is"
                f" trained. They broadcast to {result}, so {math.prod(result)} products are taken"
                f" where there are {math.prod(mine)} samples: their mean is only the mean of the"
                " one times the mean of the other."
            )
        return self.finding(
            obs,
            message,
            where=call.place,
            patience=patience,
            prediction=str(mine),
            target=str(theirs),
            result=str(result),
        )


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _broadcast(mine: Shape, theirs: Shape) -> Shape | None:
    """Return the common shape of two shapes; None if they have none."""
    length = max(len(mine), len(theirs))
    left = (1,) * (length - len(mine)) + mine
    right = (1,) * (length - len(theirs)) + theirs
    if any(a != b and 1 not in (a, b) for a, b in zip(left, right, strict=True)):
        return None
    return tuple(max(a, b) for a, b in zip(left, right, strict=True))
