"""What batch norms normalise over, and what they remember."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormCall:
    """One batch norm in one step; of several calls, that over the most values.

    Attributes:
        place: Its module path, or the path of the module that calls it as a function.
        line: The line of the user's code that calls it; empty for a module of torch.
        training: Whether it normalised by the statistics of the batch.
        values: Values of each channel that it normalised over.
        samples: Length of the first axis of its input.
        momentum: Share of the batch in the new running statistics.
        updates: How often they were updated before, as far as it counts; 0 if it does not.
        tracked: Whether it has running statistics, and updates them in train mode.
        initial: Whether they were 0 and 1 when training started (in validation: whether they are).
        frozen: Whether it has weights, and nobody trains them.
        halfway: Whether it is frozen, and the layer before it is trained.
        moved: Whether the frozen weights before it have changed since, as those of averages do.
        drift: How far the running mean is from where it was when training started, in standard
            deviations (the median over the channels); nan where that was not kept.
        stretch: The same for the running variance, as a ratio (at least 1); nan likewise.
        gap: How far the mean of the batch is from the running mean, in standard deviations; nan
            where it was not measured.
        scale: The ratio of the two variances (at least 1); nan likewise.
    """

    place: str
    line: str = ""
    training: bool = True
    values: int = 2048
    samples: int = 32
    momentum: float = 0.1
    updates: int = 0
    tracked: bool = True
    initial: bool = True
    frozen: bool = False
    halfway: bool = False
    moved: bool = False
    drift: float = math.nan
    stretch: float = math.nan
    gap: float = math.nan
    scale: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class NormedBias:
    """A bias whose layer feeds a norm that subtracts the mean of each channel.

    Attributes:
        place: The layer of the bias.
        norm: Where the norm runs.
        share: Norm of the bias's gradient over that of the weight's.
    """

    place: str
    norm: str = ""
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorms(Observation):
    """The batch norms of one step, in the order in which they ran.

    Attributes:
        stage: ``"training"`` or ``"validation"``.
        calls: One for each batch norm.
        biases: Biases that a norm takes away again.
    """

    stage: str = "training"
    calls: tuple[BatchNormCall, ...] = ()
    biases: tuple[NormedBias, ...] = ()

    @property
    def stream(self) -> str:
        """Return the stage: looks in a row are of one."""
        return self.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeGap(Observation):
    """The loss of one training batch by two kinds of statistics, dropout off, on a copy.

    Attributes:
        batch: The loss where batch norms use the statistics of the batch.
        running: The loss where they use their running statistics, as evaluation does.
        place: The batch norm whose running statistics are farthest from those of the batch.
        gap: How far its running mean is from that of the batch, in standard deviations.
        scale: The ratio of the two variances (at least 1).
        skipped: Why it could not be done; empty if it was.
    """

    batch: float = math.nan
    running: float = math.nan
    place: str = ""
    gap: float = math.nan
    scale: float = math.nan
    skipped: str = ""
