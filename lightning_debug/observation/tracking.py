"""What the run logs and what watches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Something that decides by a logged metric: a checkpoint, an early stop, a scheduler.

    Attributes:
        name: What it is, such as ``"ModelCheckpoint"``.
        monitor: The name of the metric.
        mode: ``"min"`` or ``"max"``: which way is better.
        guards: Whether it keeps the best weights or stops in time.
    """

    name: str
    monitor: str
    mode: str = "min"
    guards: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """An attribute of the model that holds tensors with their graph.

    Attributes:
        place: Such as ``"self.history"``.
        count: How many tensors.
        bounded: Whether it lets go of the oldest, or is emptied at the end of an epoch.
    """

    place: str
    count: int = 1
    bounded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGraphs(Observation):
    """The steps whose graphs are still in memory, of those that were marked.

    Attributes:
        steps: Updates made before each of them, and its epoch, oldest first.
        holders: What holds tensors with a graph, as far as that is known.
        final: Whether nothing will let go of them any more: the run of one epoch is over, and
            the model does nothing when an epoch begins or ends.
    """

    steps: tuple[tuple[int, int], ...] = ()
    holders: tuple[Holder, ...] = ()
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPass:
    """What became of a metric in one pass over training or validation data.

    Attributes:
        place: The module path of an object, or the name of a function.
        kind: Its class, or the name of the function.
        function: Whether it is a function, which holds nothing and is only known for batches.
        before: Number of updates that it still held when the pass began.
        updates: Number of updates that it held when the pass ended.
        value: Its value over all of them; nan where ``before`` is 0, or it is no single number.
        values: Its values over all of them where they are several, as one for each class.
        single: Whether it holds one running number only, as a counter or a best value does.
        higher_is_better: What the metric says of itself.
        batches: Number of batches for which it was called and gave a single number.
        batch_mean, weighted_mean: Mean of these numbers, and the same weighted by batch size.
        whole: Its value over these batches together.
        batch_size: Size of the largest batch.
    """

    place: str
    kind: str = "Metric"
    function: bool = False
    before: int = 0
    updates: int = 0
    value: float = float("nan")
    values: tuple[float, ...] = ()
    single: bool = False
    higher_is_better: bool | None = None
    batches: int = 0
    batch_mean: float = float("nan")
    weighted_mean: float = float("nan")
    whole: float = float("nan")
    batch_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold on what enters or leaves a sigmoid, to make classes of it.

    Attributes:
        place: Where the comparison was made.
        function: What made the classes, such as ``"gt"`` or ``"round"``; ``"eq"`` where there is
            no threshold, and the values themselves are compared with classes.
        value: The threshold; nan where there is none.
        logits: Whether the values were the logits of a loss; else their probabilities.
        largest: Whether they are the largest ones of each sample, where their positions would be
            the classes.
    """

    place: str
    function: str
    value: float
    logits: bool
    largest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking(Observation):
    """The metrics that were logged so far, and what watches them.

    Attributes:
        stage: What has ended: ``"validation"``, ``"training"`` (an epoch) or ``"run"``.
        metrics: The last value of each metric; nan where it was not read.
        watchers: What decides by a metric.
        uses: The metric objects of the model, in the pass that has ended.
        thresholds: How classes were made, in the batches that were looked at.
        complete: Whether a training epoch, and a validation if there is one, have ended, so that
            whatever is logged has been logged.
    """

    stage: str = "validation"
    metrics: Mapping[str, float] = field(default_factory=dict)
    watchers: tuple[Watcher, ...] = ()
    uses: tuple[MetricPass, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    complete: bool = False
