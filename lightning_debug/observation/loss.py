"""The losses of a run: the functions that were called, and the curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCall:
    """One call of a loss function in the training step.

    ``value`` and ``references`` are means per target, whatever the reduction of the call.

    Attributes:
        place: Where it was called: the module path, or ``"training_step"``.
        value: Loss of the model's prediction.
        references: The same call on constant predictions, by what was predicted: ``"uniform"``
            (equal logits), ``"prior"`` (class shares of the batch), ``"zero"``, ``"mean"`` (of the
            targets).
        classes: Number of classes that the call reveals; 0 for a regression.
        prediction_rms: Root mean square of the prediction.
        target_mean, target_std: Of float targets, over the batch.
        margin, margin_size: How far the logit of the true class lies below the others, in
            standard errors and in standard deviations of the logits; both are large before
            training only where the labels enter the logits (margin losses).
        unscaled: The loss with a constant factor on the logits (temperature) taken out; nan
            where there is no such factor.
    """

    function: str
    place: str = "training_step"
    value: float = float("nan")
    references: Mapping[str, float] = field(default_factory=dict)
    classes: int = 0
    prediction_rms: float = float("nan")
    target_mean: float = float("nan")
    target_std: float = float("nan")
    margin: float = 0.0
    margin_size: float = 0.0
    unscaled: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCalls(Observation):
    """The loss functions that the training step called, in order."""

    calls: tuple[LossCall, ...] = ()
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One summand of the loss that the training step returns.

    Attributes:
        name: The function that made it, with its place: ``"cross_entropy at criterion"``.
        value: What it adds to the total.
        trained: Whether it carries a gradient.
        cut: The function that took its gradient away, such as ``"detach"``; empty if none did.
        penalty: Whether it is made of parameters only, without the data.
        gradient: Norm of the gradient that it sends into what it shares with the other terms;
            nan where that was not measured.
    """

    name: str
    value: float = float("nan")
    trained: bool = True
    cut: str = ""
    penalty: bool = False
    gradient: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms(Observation):
    """The summands of the loss that backward starts from, in the order of the sum."""

    terms: tuple[LossTerm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses(Observation):
    """The losses of all steps since the last look, as ``(step, loss)``, oldest first.

    Attributes:
        activations_finite: Whether every module that ran gave finite values at this look.
        broken: Names of parameters that hold values that are not finite.
        skipped: Whether the optimizer refused the step, as a gradient scaler does.
    """

    values: tuple[tuple[int, float], ...] = ()
    activations_finite: bool = True
    broken: tuple[str, ...] = ()
    skipped: bool = False
