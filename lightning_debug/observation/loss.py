"""The losses of a run: the functions that were called, and the curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The prediction of a loss call: the side that carries a gradient.

    Rows run along the classes, which are on axis 1.

    Attributes:
        maker: The function that gave it its values, through views and casts: ``"softmax"``,
            ``"log_softmax"``, ``"sigmoid"``, ``"tanh"``, ``"relu"`` ...; empty for others.
        width: Units that a softmax shares its probability among; 0 for others.
        whole: Whether it holds all that the maker gave.
        distributions: Share of rows that are probabilities: none negative, sum 1.
        mixed: Share of rows with values of both signs.
        normaliser: Mean distance of the logsumexp of a row from 0, which log-probabilities give.
    """

    shape: tuple[int, ...] = ()
    maker: str = ""
    width: int = 0
    whole: bool = True
    low: float = float("nan")
    high: float = float("nan")
    mean: float = float("nan")
    std: float = float("nan")
    distributions: float = float("nan")
    mixed: float = float("nan")
    normaliser: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The target of a loss call.

    Attributes:
        dtype: ``"float"`` or ``"integer"``.
        whole: Whether all values are whole numbers.
        distinct: Number of distinct values in a sample of 1024.
        distributions: Share of rows that are probabilities: none negative, sum 1.
        several: Share of rows whose sum is above 1.5, as where several classes are true.
        beyond: Share of values that the maker of the prediction cannot give.
        cost: The squared error that this leaves at best, over the variance of the values.
        made: Whether the model made it.
        ids: Whether it is an integer tensor of the batch, cast to float.
        per_sample: Whether there is one for each sample of the batch.
        clusters: Distance between inputs of different targets over that of equal ones.
        order: Correlation, among inputs of different targets, of their distance with the
            difference of the targets; near 0 where the numbers are only names.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "float"
    low: float = float("nan")
    high: float = float("nan")
    mean: float = float("nan")
    std: float = float("nan")
    whole: bool = False
    distinct: int = 0
    distributions: float = float("nan")
    several: float = float("nan")
    beyond: float = float("nan")
    cost: float = 1.0
    made: bool = False
    ids: bool = False
    per_sample: bool = False
    clusters: float = float("nan")
    order: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """For each class of a classification, over one batch; empty where that was not measured.

    Attributes:
        targets: How many targets it has.
        correct: How many of them get the highest score.
        own: Mean probability of the class on its own targets.
        other: Mean probability of the class on the targets of others.
        weights: What the loss multiplies its targets by; empty if it was not told.
    """

    targets: tuple[float, ...] = ()
    correct: tuple[float, ...] = ()
    own: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How the symbol that most sequences of targets have at one end is spread.

    Attributes:
        side: Which one: ``"end"`` or ``"start"``.
        symbol: The class.
        share: Of all targets.
        inside: Share of its occurrences that lie in an unbroken run at that end.
        rows: Share of sequences with a run of two or more.
        varied: Standard deviation of the length of the runs.
        next_share: Share of the most frequent other class.
        weight: Weight of the class in the loss.
    """

    side: str = "end"
    symbol: float = float("nan")
    share: float = 0.0
    inside: float = 0.0
    rows: float = 0.0
    varied: float = 0.0
    next_share: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCall:
    """One call of a loss function in the training step.

    ``value`` and ``references`` are means per target, whatever the reduction of the call.

    Attributes:
        place: Where it was called: the module path, or ``"training_step"``.
        value: Loss of the model's prediction.
        references: The same call on constant predictions, by what was predicted: ``"uniform"``
            (equal logits), ``"prior"`` (class shares of the batch), ``"zero"``, ``"mean"`` (of the
            targets), ``"bias"`` (their mean for each output that has a bias of its own, as it does
            on other samples).
        classes: Number of classes that the call reveals; 0 for a regression.
        prediction_rms: Root mean square of the prediction.
        target_mean, target_std: Of float targets, over the batch.
        margin, margin_size: How far the logit of the true class lies below the others, in
            standard errors and in standard deviations of the logits; both are large before
            training only where the labels enter the logits (margin losses).
        unscaled: The loss with a constant factor on the logits (temperature) taken out; nan
            where there is no such factor.
        unused: Share of the errors that a mask leaves out of the loss, of a regression that gives
            them one by one.
        spelled: Whether it is no function of torch, but spelled out in the user's code.
        kind: What it takes the prediction for: ``"logits"``, ``"binary-logits"``,
            ``"log-probabilities"``, ``"probabilities"``, ``"regression"`` or ``"other"``.
        reduction: ``"mean"``, ``"sum"``, ``"batchmean"`` or ``"none"``.
        terms: Number of losses of which a summed loss is the sum; 1 for others.
        weighted: Whether it was given weights.
        ignored: The target that does not count, if there can be one.
        prediction, target: What both sides are like.
        counts: Targets and correct predictions of each class.
        ends: What integer targets have at the ends of sequences; empty for others.
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
    unused: float = 0.0
    spelled: bool = False
    kind: str = "other"
    reduction: str = "mean"
    terms: int = 1
    weighted: bool = False
    ignored: int | None = None
    prediction: Predictions = field(default_factory=Predictions)
    target: Targets = field(default_factory=Targets)
    counts: ClassCounts = field(default_factory=ClassCounts)
    ends: tuple[Ends, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeLoss:
    """The loss that the training step returned, whatever it is made of.

    Attributes:
        value: What it returned.
        zero: The same computation on zeros for every prediction; nan where it cannot be run
            again, or samples do not have losses of their own.
        squashed: Whether a softmax or sigmoid lies between the predictions and the loss.
        prediction_rms: Root mean square of the predictions.
    """

    value: float
    zero: float = float("nan")
    squashed: bool = False
    prediction_rms: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCalls(Observation):
    """The loss functions that the training step called, in order.

    Attributes:
        whole: The loss that was returned; None where there was none.
    """

    calls: tuple[LossCall, ...] = ()
    whole: WholeLoss | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One summand of the loss that the training step returns.

    Attributes:
        name: The function that made it, with its place: ``"cross_entropy at criterion"``.
        total: Which loss it belongs to, where backward runs several times in a batch.
        value: What it adds to the total.
        weight: The constant factor before it.
        scaled: Whether tensors are factors before it, too.
        trained: Whether it carries a gradient.
        cut: What took its gradient away, such as ``"detach"`` or ``"no_grad"``; ``"frozen"`` if
            the layers that made it are not trained; empty if it has one.
        cut_line: The line of the user's code that did so.
        penalty: Whether it is made of parameters only, without the data.
        activity: Whether it is the size of what one layer gave: a mean or sum of ``|h| ** p``.
        line: The line of the user's code that made it: ``"train.py:41"``.
        call: Position of the loss function that it comes from in :class:`LossCalls`; -1 if none.
        gradient: Norm of the gradient that it sends into what it shares with the other terms;
            nan where that was not measured.
    """

    name: str
    total: int = 0
    value: float = float("nan")
    weight: float = 1.0
    scaled: bool = False
    trained: bool = True
    cut: str = ""
    cut_line: str = ""
    penalty: bool = False
    activity: bool = False
    line: str = ""
    call: int = -1
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
