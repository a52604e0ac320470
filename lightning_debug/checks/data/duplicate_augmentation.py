"""Workers that draw the same random numbers, or give the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Batch, BatchTensor, Comparison, Loader, RunStart

SPLIT = (
    "Give each worker its part in the dataset's __iter__: info = get_worker_info(), then"
    " itertools.islice(samples, info.id, None, info.num_workers)."
)
Prints = dict[str, tuple[tuple[float, float], ...]]


@dataclass
class _Sum:
    """Comparisons of consecutive batches, added up."""

    batches: int = 0
    pairs: int = 0
    excess: float = 0.0
    variance: float = 0.0

    def add(self, found: Comparison) -> None:
        """Add a pair of batches."""
        self.batches += 1
        self.pairs += found.pairs
        self.excess += found.pairs * (found.alike - found.others)
        self.variance += found.pairs * found.spread**2

    @property
    def mean(self) -> float:
        """Return how much more alike matched samples are than others."""
        return self.excess / self.pairs if self.pairs else 0.0

    @property
    def deviations(self) -> float:
        """Return the same in standard errors."""
        return self.excess / math.sqrt(self.variance) if self.variance > 0.0 else 0.0


@dataclass
class _Copies:
    """How many pairs of batches are the same, of one round of the workers and of different ones."""

    pairs: int = 0
    same: int = 0
    rounds: int = 0
    repeats: int = 0

    def add(self, *, one_round: bool, same: bool) -> None:
        """Count a pair of batches."""
        if one_round:
            self.pairs += 1
            self.same += same
        else:
            self.rounds += 1
            self.repeats += same


@dataclass(kw_only=True)
class DuplicateAugmentation(Check):
    """The workers of the loader draw the same random numbers, or all give the same samples.

    Why: a generator that the dataset owns is copied into every worker with its state. The
    augmentations of consecutive batches are then the same, and there is much less variety than
    there seems to be. An iterable dataset is copied as well: each worker goes through all of it,
    unless it is split, and training takes each batch as often as there are workers.

    Silent when: there is one worker or none; samples at one position are also alike where they
    come from different rounds of the workers, or have the same target (periodic data, balanced
    samplers); the random part is too small, or too tied to the content, to show. Of an iterable
    dataset only batches that are the same in every value count, labels and all: two parts of a
    series are alike. A sampler that repeats batches of other datasets means to.

    Source: https://github.com/pytorch/pytorch/issues/5059,
    https://pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset

    Args:
        excess: How much higher the correlation of samples at the same position in batches of one
            round of workers has to be than that of other samples.
        deviations: The same in standard errors.
        batches: Fewest pairs of batches of one round.
        across: Largest share of that between batches of different rounds.
    """

    fix = (
        "Draw from torch (torch.rand, torchvision transforms), which seeds each worker, or seed the"
        " dataset's own generator in each worker: worker_init_fn=lambda i: setattr("
        "get_worker_info().dataset, 'rng', np.random.default_rng(torch.initial_seed() % 2**32))."
    )

    excess: float = 0.1
    deviations: float = 6.0
    batches: int = 3
    across: float = 0.3
    _loader: Loader = field(default_factory=Loader, init=False, repr=False)
    _within: _Sum = field(default_factory=_Sum, init=False, repr=False)
    _across: _Sum = field(default_factory=_Sum, init=False, repr=False)
    _labels: _Sum = field(default_factory=_Sum, init=False, repr=False)
    _copies: _Copies = field(default_factory=_Copies, init=False, repr=False)
    _before: tuple[tuple[int, int], Prints] = field(default=((-1, -1), {}), init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember how many workers there are."""
        self._loader = obs.loader
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Compare batches that different workers made at the same time."""
        yield from self._judge_copies(obs) if self._loader.iterable else self._judge_noise(obs)

    def _judge_copies(self, obs: Batch) -> Iterator[Finding]:
        """Compare a batch with the last one, value by value."""
        workers = self._loader.workers
        if workers < 2 or self._loader.overfit or not any(map(_is_sample, obs.tensors)):
            return
        turn, prints = (obs.epoch, obs.index // workers), {t.path: t.prints for t in obs.tensors}
        (last, before), self._before = self._before, (turn, prints)
        copies = self._copies
        if before:
            copies.add(one_round=turn == last, same=prints == before)
        several = copies.pairs >= self.batches and copies.rounds >= 2
        if several and copies.same == copies.pairs and not copies.repeats:
            message = (
                f"All {copies.pairs} pairs of batches that the {workers} workers made at the"
                " same time are the same, sample for sample, and those of different times are not:"
                " each worker goes through all the data."
            )
            yield self.finding(
                obs,
                message,
                where="train_dataloader",
                fix=SPLIT,
                pairs=copies.pairs,
                workers=workers,
            )

    def _judge_noise(self, obs: Batch) -> Iterator[Finding]:
        """Compare the samples at one position in two batches."""
        found, workers = obs.workers, self._loader.workers
        if found is None or workers < 2 or not math.isfinite(found.alike):
            return
        # Workers take turns: batch i comes from worker i % workers.
        one_round = obs.index % workers != 0
        (self._within if one_round else self._across).add(found)
        if one_round and obs.worker_labels is not None:
            self._labels.add(obs.worker_labels)
        within, across = self._within, self._across
        if within.batches < self.batches or across.batches < 1:
            return
        alike = within.mean >= self.excess and within.deviations >= self.deviations
        if alike and across.mean < self.across * within.mean and self._labels.deviations < 3.0:
            message = (
                f"Samples at the same position of the batches that the {workers} workers make at"
                f" the same time have a correlation that is {within.mean:.2f} above that of other"
                f" samples ({across.mean:.2f} between batches of different rounds): the workers"
                " draw the same random numbers."
            )
            yield self.finding(
                obs, message, where="train_dataloader", correlation=within.mean, workers=workers
            )


def _is_sample(tensor: BatchTensor) -> bool:
    """Tell whether a tensor of the batch is what the model sees; one number may be a dummy."""
    return tensor.input and tensor.features > 1
