"""What trainings of a copy have shown, and one step made twice."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class OverfitArm:
    """A copy trained on the same one or two samples at one learning rate.

    Attributes:
        factor: Of the user's learning rate.
        losses: The loss of each step.
        score: What the predictions reach at last, as in :class:`Overfit`.
        solved: Whether the samples were learned by heart.
        still: Parameters that no step has moved.
    """

    factor: float
    losses: tuple[float, ...] = ()
    score: float = float("nan")
    solved: bool = False
    still: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overfit(Observation):
    """A copy trained on one or two samples, without regularization, until it knows them by heart.

    Attributes:
        samples: How many.
        function: What compares predictions with targets: ``"cross_entropy"``, ``"sub"``.
        place: Where it is called.
        metric: ``"accuracy"``, or ``"explained variance"`` for real targets.
        chance: What the best constant prediction scores on these samples.
        many: How many numbers or classes are predicted for them.
        constant: The mean cross-entropy of that constant; nan for real targets.
        unseen, unseen_chance: The score on data that were not trained on, after the training,
            and of the best constant there; nan where there are none.
        validated: Whether those are validation data, and not the rest of the batch.
        arms: The trainings, in the order in which they were made, the user's learning rate first.
        wider: Trainings on more samples of the batch, where no training on these did.
        wider_chance: What the best constant scores there.
        whole: Whether that comparison is all that the loss consists of.
        seconds: How long it took.
        skipped: Why it could not be done; empty if it was.
    """

    samples: int = 0
    function: str = ""
    place: str = ""
    metric: str = ""
    chance: float = float("nan")
    many: int = 0
    constant: float = float("nan")
    unseen: float = float("nan")
    unseen_chance: float = float("nan")
    validated: bool = False
    arms: tuple[OverfitArm, ...] = ()
    wider: tuple[OverfitArm, ...] = ()
    wider_chance: float = float("nan")
    whole: bool = False
    seconds: float = float("nan")
    skipped: str = ""

    @property
    def best(self) -> OverfitArm | None:
        """Return the training that got furthest."""
        return max(self.arms, key=lambda arm: arm.score, default=None)

    @property
    def curve(self) -> tuple[float, ...]:
        """Return the losses of that training."""
        return self.best.losses if self.best else ()

    @property
    def summary(self) -> str:
        """Return how soon they were learned, and what that is worth on other data."""
        best = self.best
        if best is None:
            return ""
        text = f"{self.samples} samples: {self.metric} {best.score:.2f} in {len(best.losses)} steps"
        if best.factor != 1.0:
            text += f" at {best.factor:g} times the learning rate"
        if self.unseen == self.unseen:
            data = "validation data" if self.validated else "the rest of the batch"
            text += f"; {self.unseen:.2f} on {data} (a constant: {self.unseen_chance:.2f})"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRepeat(Observation):
    """One training step made again, from the same state and the same random numbers.

    Attributes:
        losses: What two runs gave; empty if they were the same bit for bit.
        change: How far those are apart, relative to their size.
        gradient: The same for the gradients.
        rounding: Whether another order of summation could do that.
        source: What it depends on, though it should not: ``"entropy"`` of the operating system,
            the ``"clock"``, ``"memory"`` that nothing was written to, or the ``"identity"`` of
            objects and hashes of text; empty where that is not known.
        place: The module in which two runs part; ``"training_step"`` if it is in none.
        line: Of the user's code that draws from the source: ``"train.py:41"``.
        code: What is written there.
        device: On which it ran.
        skipped: Why it could not be done; empty if it was.
    """

    losses: tuple[float, ...] = ()
    change: float = 0.0
    gradient: float = 0.0
    rounding: bool = False
    source: str = ""
    place: str = ""
    line: str = ""
    code: str = ""
    device: str = "cpu"
    skipped: str = ""

    @property
    def summary(self) -> str:
        """Return whether the step repeats."""
        if self.skipped:
            return ""
        if not self.losses:
            return "the same loss and gradients, bit for bit"
        return f"losses {self.change:.1e} apart, gradients {self.gradient:.1e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleModel:
    """How good a model is on samples of the run.

    Attributes:
        name: ``"constant"``, ``"linear"``, ``"one hidden layer"``, or ``"model"``.
        score: The higher the better, at most 1: accuracy or explained variance.
        loss: The lower the better: cross-entropy, or the mean distance of values relative to
            that of the best constant.
    """

    name: str
    score: float = float("nan")
    loss: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines(Observation):
    """Simple models trained and tested on batches of the run, beside the user's model.

    They are tested on samples that they were not trained on; the model was trained on all.

    Attributes:
        function: What compares predictions with targets: ``"cross_entropy"``, ``"sub"``.
        place: Where it is called.
        layout: What there is one prediction for: ``"sample"``, or in each of them ``"token"``,
            ``"step"``, ``"pixel"``.
        metric: ``"accuracy"``, or ``"explained variance"``.
        samples: How many the test was on.
        updates: How many the run has made; simple models had no more.
        model: How good the user's model is.
        simple: How good the simple ones are, the simplest first.
        further: How good a copy of it is that was trained on with Adam; None where the model is
            not behind, or that could not be done.
        error: Standard error of the difference in score between the best of those and the model.
        gain_error: The same, between the best of those and a constant.
        fall: How far the loss of the run came down in its last half, relative to its size.
        trend: Mann-Kendall score of that half; below -1.6 it falls.
        warming: Whether the learning rate has only risen.
        skipped: Why it could not be done; empty if it was.
    """

    function: str = ""
    place: str = ""
    layout: str = "sample"
    metric: str = "accuracy"
    samples: int = 0
    updates: int = 0
    model: SimpleModel = SimpleModel(name="model")
    simple: tuple[SimpleModel, ...] = ()
    further: SimpleModel | None = None
    error: float = float("nan")
    gain_error: float = float("nan")
    fall: float = float("nan")
    trend: float = float("nan")
    warming: bool = False
    skipped: str = ""

    @property
    def summary(self) -> str:
        """Return how good each of them is."""
        if self.skipped:
            return ""
        others = ", ".join(f"{other.name} {other.score:.2f}" for other in self.simple)
        return f"{self.metric} {self.model.score:.2f}; {others}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledLabels(Observation):
    """Whether labels can be told from inputs better than the same labels in another order.

    Simple models predict each sample from all others. Scores are in standard deviations of what
    the labels reach in random orders, above their mean.

    Attributes:
        samples: How many.
        real: The score of the labels as they are.
        highest: The highest score of a random order.
        weak: The score that four of five orders exceed which depend a little on the inputs.
        skipped: Why it could not be done; empty if it was.
    """

    samples: int = 0
    real: float = float("nan")
    highest: float = float("nan")
    weak: float = float("nan")
    skipped: str = ""

    @property
    def summary(self) -> str:
        """Return what the labels reach."""
        if self.skipped:
            return ""
        return f"labels are {self.real:.3g} standard deviations from shuffled ones"
