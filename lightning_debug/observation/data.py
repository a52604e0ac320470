"""What the loaders give: batches of training and of validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """What the training loader says about itself; nothing of it was iterated.

    Attributes:
        known: Whether it is one DataLoader over a map-style dataset; most of the rest needs that.
        iterable: Whether it is one DataLoader over an iterable dataset.
        batches, samples: Number of them in an epoch; 0 where it does not tell.
        batch_size: Samples that it collates; 0 where the dataset gives whole batches.
        order: ``"sequential"``, ``"random"``, or ``"own"`` for a sampler that torch does not have.
        repeats: Whether its sampler may draw a sample several times in an epoch.
        workers: Number of its worker processes.
        overfit: Whether the trainer was told to overfit a few batches.
        shares: Whether its sampler or dataset shuffles, and knows of several processes.
        shared: Share of the validation samples that are training samples by construction (one
            dataset, indices, memory); 0 where none are known to be.
    """

    known: bool = False
    iterable: bool = False
    batches: int = 0
    samples: int = 0
    batch_size: int = 0
    order: str = "own"
    repeats: bool = False
    workers: int = 0
    overfit: bool = False
    shares: bool = False
    shared: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTensor:
    """One tensor of a batch.

    Attributes:
        path: Where it lies in the batch: ``"batch[0]"``, ``"batch['x']"``.
        input, target: Whether the training step fed it to a layer with weights, and whether it
            held a prediction against it.
        integer: Whether it holds whole numbers by type.
        samples, features: Length of its first axis, and number of values of one sample.
        bad: Number of values that are NaN or infinite; at least 1 where there are any.
        low, high: Smallest and largest value of a strided sample.
        prints: Fingerprint of each of the first samples, two numbers each.
        labels: The values of the first samples, where a sample has one value.
        adjacent: How much neighbouring samples differ, squared, over how much any two samples of
            the batch do: about 1 in random order. nan for few or equal samples.
    """

    path: str
    input: bool = False
    target: bool = False
    integer: bool = False
    samples: int = 0
    features: int = 1
    bad: int = 0
    low: float = float("nan")
    high: float = float("nan")
    prints: tuple[tuple[float, float], ...] = ()
    labels: tuple[float, ...] = ()
    adjacent: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Pairs of samples that belong together for some reason, held against all pairs.

    Attributes:
        pairs: Number of pairs.
        alike: How alike the pairs are, on average.
        others, spread: Mean and standard deviation of the same over all pairs.
    """

    pairs: int
    alike: float
    others: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenTensor:
    """A tensor of a batch that holds values which are not finite."""

    path: str
    step: int
    epoch: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStart:
    """One of the first batches of an epoch, as one number for each of its tensors, by path."""

    epoch: int
    index: int
    prints: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Observation):
    """One batch of training data, before the model sees it.

    Attributes:
        index: Number of the batch in its epoch.
        finite: Whether all float tensors in it hold only finite values.
        harmful: Whether the loss, or a gradient that the optimizer used, was not finite.
        tensors: The tensors in it; empty at the end of the run.
        neighbours: Targets of samples that are nearest to each other in the inputs.
        workers: Samples at the same position of this batch and the one before it.
        worker_labels: The same for their targets.
        targets: What predictions were held against.
        picked: Whether the step picked the samples among them from a larger tensor of the batch.
        broken: Tensors of batches between the looks that are not finite; searched for only once
            a loss was not finite.
        starts: First batches of the epochs since the last look.
    """

    index: int = 0
    finite: bool = True
    harmful: bool = False
    tensors: tuple[BatchTensor, ...] = ()
    neighbours: Comparison | None = None
    workers: Comparison | None = None
    worker_labels: Comparison | None = None
    targets: tuple[TargetCall, ...] = ()
    picked: bool = False
    broken: tuple[BrokenTensor, ...] = ()
    starts: tuple[EpochStart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One feature or channel of what enters a layer.

    Attributes:
        pull: Root mean square of the weights that it meets, summed over a kernel.
        binary: Whether it takes only two values, or one.
        zeros: Share of values that are exactly 0.
    """

    index: int
    mean: float
    std: float
    pull: float = float("nan")
    binary: bool = False
    zeros: float = 0.0

    @property
    def rms(self) -> float:
        """Return its root mean square."""
        return math.hypot(self.mean, self.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataEntry:
    """Data that enter a layer with trained weights, as they are when they get there.

    Attributes:
        place: The layer, or ``"training_step"`` for weights that belong to no module.
        kind: Name of the function.
        columns: Its features or channels, at most 256 of them, evenly spread.
        width: How many there are.
        rows: How many values each has: one for each sample, and for each position in it.
        normalized: Whether the output goes into a normalisation or a periodic function, before any
            other layer takes it.
        derived: Whether it was computed from a tensor of the batch, or is one.
        target: Whether that tensor is a target too.
    """

    place: str
    kind: str = "linear"
    columns: tuple[Column, ...] = ()
    width: int = 0
    rows: int = 0
    normalized: bool = False
    derived: bool = True
    target: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCall:
    """A tensor of the batch, or made of one, that a prediction was held against.

    Attributes:
        place: Where.
        values: Number of values.
        low, high: Smallest and largest value of a strided sample.
    """

    place: str = "training_step"
    values: int = 0
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPrints:
    """Fingerprints of the first samples of one tensor of the validation batches.

    Attributes:
        path: Where it lies in the batch.
        loader: Number of the validation loader.
        prints: Two numbers for each sample.
        apart: Whether samples that agree in one of the columns are always equal, as those of
            measurements are; False where too few were compared.
    """

    path: str
    loader: int = 0
    prints: tuple[tuple[float, float], ...] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation(Observation):
    """One pass over the validation data, while training.

    Attributes:
        loss: Mean of what ``validation_step`` returned, or of the validation loss that was
            logged, of the first loader; nan where there is neither.
        losses: Training losses that no ``Losses`` has shown yet, as ``(step, loss)``.
        prints: Fingerprints of its first samples, by loader and tensor.
    """

    loss: float = float("nan")
    losses: tuple[tuple[int, float], ...] = ()
    prints: tuple[ValidationPrints, ...] = ()


def same_order(
    first: Mapping[int, Mapping[str, float]], last: Mapping[int, Mapping[str, float]]
) -> bool:
    """Tell whether a tensor that differs from batch to batch is the same in both epochs."""
    common = sorted(first.keys() & last.keys())
    for path in first[common[0]] if common else ():
        one = [first[index].get(path, math.nan) for index in common]
        other = [last[index].get(path, math.nan) for index in common]
        if len(set(one)) == len(one) and one == other:
            return True
    return False
