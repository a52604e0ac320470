"""Labels that belong to other samples."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, median

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import (
    Batch,
    Loader,
    LossCall,
    LossCalls,
    Losses,
    Observation,
    RunEnd,
    RunStart,
    ShuffledLabels,
    Validation,
)

RECENT = 20
MOST_FRESH = 1000
MOST_VALIDATIONS = 1000
MOST_EPOCHS = 1000
LEAST_BATCHES = 4
REFERENCES = 200


@dataclass(kw_only=True)
class LabelsUnrelated(Check):
    """The labels have nothing to do with the inputs; they can only be learned by heart.

    Why: where inputs and labels are paired wrongly (files listed in another order, one of them
    shuffled alone), a large network still drives the training loss down, sample by sample. On
    samples that it has not seen it is never better than a constant guess.

    Silent when: unseen samples (the validation data, or the first epoch) were ever better than
    chance; simple models tell a label from the other samples better than one of a shuffled order,
    or samples that are near each other have similar labels; the training loss does not fall either,
    in a run that is not long, or with few classes; the data are few, or inputs are tokens, where
    that cannot be told.

    Source: Zhang et al., Understanding deep learning requires rethinking generalization (2017).

    Args:
        fitted: Training loss over chance below which labels have been learned.
        fitted_alone: The same where there is no validation.
        chance: Loss on unseen samples over chance, above which nothing was learned.
        samples: Fewest samples in an epoch.
        pairs: Fewest pairs of nearest neighbours.
        deviations: How much more alike their labels may be than chance, in standard errors.
        fresh: Fewest losses of the first epoch, where there is no validation.
        epochs: Fewest epochs, where there is no validation.
        validations: Fewest validations, where there are any.
        within: Largest fall of the loss within the epochs over its whole fall, where there is no
            validation. What is learned by heart helps only when the sample comes again, so the
            loss falls from epoch to epoch and not within one.
        shuffled: Standard deviations from shuffled labels up to which labels are like them.
        related: The same, above which labels belong to their inputs.
        weak: The same that a weak relation has to reach for anything to be told from it.
        unseen: Loss on unseen samples over chance, above which next to nothing was learned; enough
            where labels are like shuffled ones.
        classes: Fewest classes where the labels were not learned.
        long: Updates after which labels have been tried for long, even if they were not learned.
        long_epochs: Epochs for that.
    """

    fix = (
        "Show a few samples with their labels, after all preprocessing. Sort file lists on both"
        " sides (sorted(os.listdir(...))), join tables on a key, and shuffle inputs and labels with"
        " one permutation."
    )

    fitted: float = 0.85
    fitted_alone: float = 0.5
    chance: float = 0.97
    samples: int = 200
    pairs: int = 250
    deviations: float = 3.0
    fresh: int = 8
    epochs: int = 3
    validations: int = 2
    within: float = -0.1
    shuffled: float = 2.0
    related: float = 3.0
    weak: float = 2.5
    unseen: float = 0.9
    classes: int = 4
    long: int = 200
    long_epochs: int = 5
    _loader: Loader = field(default_factory=Loader, init=False, repr=False)
    _references: deque[float] = field(
        default_factory=lambda: deque(maxlen=REFERENCES), init=False, repr=False
    )
    _shuffled: ShuffledLabels | None = field(default=None, init=False, repr=False)
    _call: LossCall | None = field(default=None, init=False, repr=False)
    _alone: bool = field(default=False, init=False, repr=False)
    _resumed: bool = field(default=False, init=False, repr=False)
    _fresh: list[float] = field(default_factory=list, init=False, repr=False)
    _start: tuple[int, int] | None = field(default=None, init=False, repr=False)
    _now: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _recent: deque[float] = field(
        default_factory=lambda: deque(maxlen=RECENT), init=False, repr=False
    )
    _halves: dict[int, list[list[float]]] = field(default_factory=dict, init=False, repr=False)
    _regular: bool = field(default=True, init=False, repr=False)
    _validations: list[float] = field(default_factory=list, init=False, repr=False)
    _pairs: int = field(default=0, init=False, repr=False)
    _excess: float = field(default=0.0, init=False, repr=False)
    _variance: float = field(default=0.0, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember how many samples there are."""
        self._loader = obs.loader
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Add up how alike the labels of nearest neighbours are."""
        near = obs.neighbours
        if near is not None and near.spread > 0.0 and math.isfinite(near.alike):
            self._pairs += near.pairs
            self._excess += near.pairs * (near.alike - near.others)
            # Two samples are often nearest to each other, so a pair may count twice.
            self._variance += 2.0 * near.pairs * near.spread**2
        yield from ()

    def on_validation(self, obs: Validation) -> Iterator[Finding]:
        """Remember the loss on unseen samples."""
        if math.isfinite(obs.loss) and len(self._validations) < MOST_VALIDATIONS:
            self._validations.append(obs.loss)
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember what the loss is when it knows nothing."""
        self._call = obs.calls[0] if len(obs.calls) == 1 else None
        self._resumed = self._resumed or obs.resumed
        if self._call is not None:
            references = self._call.references.items()
            # What one number for all outputs gives: unseen samples must do worse than that.
            others = ("zero", "bias")
            chances = [v for k, v in references if k not in others and math.isfinite(v)]
            if chances and self._call.target.per_sample:
                self._references.append(min(chances))
        yield from ()

    def on_shuffled_labels(self, obs: ShuffledLabels) -> Iterator[Finding]:
        """Remember whether the labels belong to their inputs."""
        self._shuffled = None if obs.skipped else obs
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Compare the loss on seen and on unseen samples with chance."""
        values = [value for _, value in obs.values if math.isfinite(value)]
        if self._call is None or not values or self._resumed or not self._reference > 0.0:
            return
        if not math.isclose(values[-1], self._call.value, rel_tol=0.01) and not self._alone:
            return  # the loss has other terms, or is summed
        self._alone = True
        first = obs.values[0][0], obs.epoch
        self._start = first if self._start is None else self._start
        self._now = obs.values[-1][0], obs.epoch
        if obs.epoch == self._start[1]:
            self._fresh.extend(values[: MOST_FRESH - len(self._fresh)])
        self._recent.extend(values)
        self._divide(obs)
        yield from self._judge(obs)

    def on_run_end(self, obs: RunEnd) -> Iterator[Finding]:
        """Judge the whole run, once more is known of the labels."""
        if obs.completed and self._alone:
            yield from self._judge(obs)

    @property
    def _reference(self) -> float:
        """Return the loss of a constant guess; nan where it is not known."""
        return fmean(self._references) if self._references else math.nan

    def _judge(self, obs: Observation) -> Iterator[Finding]:
        many = self._loader.known and self._loader.samples >= self.samples
        if len(self._recent) < RECENT or not many or self._related():
            return
        train = median(self._recent)
        limit = self.fitted if self._validations or self._told_apart() else self.fitted_alone
        fitted = train < limit * self._reference
        tried = self._told_apart() and self._tried()
        unseen = self._unseen() if tried or (fitted and self._known_unrelated()) else None
        level = self.unseen if self._told_apart() else self.chance
        if unseen is not None and unseen[0] >= level * self._reference:
            yield self._tell(obs, train, *unseen, fitted=fitted)

    def _tell(
        self, obs: Observation, train: float, loss: float, kind: str, *, fitted: bool
    ) -> Finding:
        function = self._call.function if self._call else "loss"
        verb = "has fallen to" if fitted else "is still"
        message = (
            f"The training {function} {verb} {train:.3g}, but the {kind} loss has never been better"
            f" than chance ({loss:.3g}; a constant guess gives {self._reference:.3g}), and"
        )
        if self._told_apart() and self._shuffled is not None:
            message += (
                " simple models tell the labels no better from the other samples than labels in a"
                f" shuffled order ({self._shuffled.samples} samples)"
            )
        else:
            message += " inputs that are near each other have unrelated labels"
        message += ": the labels are learned by heart." if fitted else "."
        return self.finding(
            obs, message, where="labels", train=train, unseen=loss, chance=self._reference
        )

    def _tried(self) -> bool:
        """Tell whether the run has tried for long to learn labels that can be learned.

        A relation to one of two classes, or to a number, may be too weak or too involved for that.
        """
        if self._start is None or self._call is None or self._call.classes < self.classes:
            return False
        updates, epochs = (now - then for now, then in zip(self._now, self._start, strict=True))
        return updates + 1 >= self.long and epochs + 1 >= self.long_epochs

    def _unseen(self) -> tuple[float, str] | None:
        """Return the best loss on unseen samples and which it is; None if there is too little."""
        if self._validations:
            enough = len(self._validations) >= self.validations
            return (min(self._validations), "validation") if enough else None
        epochs = self._now[1] - (self._start or self._now)[1] + 1
        if epochs < self.epochs or len(self._fresh) < self.fresh:
            return None
        by_heart = self._told_apart() or self._falls_between()
        return (median(self._fresh), "first-epoch") if by_heart else None

    def _divide(self, obs: Losses) -> None:
        """Add the losses up by epoch, its first half and its second apart."""
        batches = self._loader.batches
        if batches < LEAST_BATCHES or obs.values[-1][0] // batches != obs.epoch:
            self._regular = False  # one update is not one batch
        for step, value in obs.values if self._regular else ():
            epoch, batch = divmod(step, batches)
            if epoch < MOST_EPOCHS and math.isfinite(value):
                halves = self._halves.setdefault(epoch, [[0.0, 0.0], [0.0, 0.0]])
                half = halves[2 * batch // batches]
                half[0] += value
                half[1] += 1.0

    def _falls_between(self) -> bool:
        """Tell whether the loss falls from epoch to epoch, but not within an epoch."""
        means = [
            (first[0] / first[1], second[0] / second[1])
            for first, second in self._halves.values()
            if first[1] and second[1]
        ]
        if not self._regular or len(means) < self.epochs:
            return False
        fall = sum(means[0]) / 2.0 - sum(means[-1]) / 2.0
        return sum(first - second for first, second in means[1:]) < self.within * fall

    def _told_apart(self) -> bool:
        """Tell whether labels were seen to be like shuffled ones, where others would not be."""
        seen = self._shuffled
        return seen is not None and seen.real <= self.shuffled and seen.weak >= self.weak

    def _related(self) -> bool:
        """Tell whether something shows that the labels belong to their inputs."""
        alike = self._excess >= self.deviations * math.sqrt(self._variance)
        near = self._pairs >= self.pairs and self._variance > 0.0 and alike
        return near or (self._shuffled is not None and self._shuffled.real > self.related)

    def _known_unrelated(self) -> bool:
        """Tell whether neighbours or shuffled labels show that they do not."""
        return self._told_apart() or (self._pairs >= self.pairs and self._variance > 0.0)
