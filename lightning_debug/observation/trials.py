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
        unseen, unseen_chance: The score on data that were not trained on, after the training,
            and of the best constant there; nan where there are none.
        validated: Whether those are validation data, and not the rest of the batch.
        arms: The trainings, in the order in which they were made, the user's learning rate first.
        whole: Whether that comparison is all that the loss consists of.
        seconds: How long it took.
        skipped: Why it could not be done; empty if it was.
    """

    samples: int = 0
    function: str = ""
    place: str = ""
    metric: str = ""
    chance: float = float("nan")
    unseen: float = float("nan")
    unseen_chance: float = float("nan")
    validated: bool = False
    arms: tuple[OverfitArm, ...] = ()
    whole: bool = False
    seconds: float = float("nan")
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRepeat(Observation):
    """One training step made twice, from the same state and the same random numbers.

    Attributes:
        skipped: Why it could not be done; empty if it was.
    """

    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines(Observation):
    """Simple models trained and tested on batches of the run, beside the user's model.

    Attributes:
        skipped: Why it could not be done; empty if it was.
    """

    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledLabels(Observation):
    """A copy trained with the labels of the run, and one with shuffled labels.

    Attributes:
        skipped: Why it could not be done; empty if it was.
    """

    skipped: str = ""
