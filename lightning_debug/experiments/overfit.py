"""Whether the model can learn one or two samples by heart."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchmetrics.functional import r2_score

from lightning_debug.experiments.batches import detached
from lightning_debug.experiments.isolation import seed
from lightning_debug.experiments.layout import Samples
from lightning_debug.experiments.pairs import (
    BINARY,
    BY_CLASS,
    DIFFERENCES,
    PICKS,
    REAL,
    Pair,
    paired,
)
from lightning_debug.experiments.replica import SEED, NotApplicableError, Replica, single
from lightning_debug.experiments.training import Training
from lightning_debug.experiments.trial import heard, matched
from lightning_debug.observation import Overfit, OverfitArm
from lightning_debug.taps.dropped_norm import DROPOUTS

BY_INDEX = BY_CLASS | PICKS | {"multi_margin_loss"}
STEPS = 150
FEWEST_STEPS = 40
# Steps of a training after which it is known how long it would take.
TIMED = 3
CANDIDATES = 16
UNSEEN = 64
WIDE = 32
MOST_PAIRS = 64
# Learning rates to try where that of the user does not do, as long as that helps.
HIGHER, LOWER = (10.0, 100.0, 1e3, 1e4, 1e5), (0.1, 0.01)
# Share of the lowest loss by which the next one must be lower to go on.
LOWER_BY = 1e-5
# Over so many steps the loss must change by this share of it; what stands still is at its end.
PAUSE, STILL = 20, 2e-3
# Explained variance, accuracy of many predictions at once, and fall of the loss.
KNOWN, NEARLY, FALLEN = 0.9, 0.95, 0.2
FEW = 20
# Of the way from a constant to what is perfect.
GOOD = 0.6
# Of the spread of the scores of the classes: by less than that one is higher by rounding.
CLEAR = 0.01
LEARNED = 0.2
# Of the loss: what its parts may add up to, and count as all of it.
SAME = 0.05


def overfit(
    replica: Replica,
    batch: Any,
    training: Training,
    *,
    step: int,
    epoch: int,
    allowed: Callable[[float], float],
    validation: Any = None,
) -> Overfit:
    """Train on two samples with different targets, or on one, until they are known by heart.

    The random numbers are the same at each step, so that augmentations and noise are, too;
    nothing is dropped and no weights decay. Where the user's learning rate does not do, others
    are tried.

    Args:
        replica: In the dtype of the run.
        batch: What the training step is about to get.
        training: Trains the replica.
        step: Optimizer updates made so far.
        epoch: Epoch, counted from 0.
        allowed: Gives the seconds that this may take, for the seconds that a step takes.
        validation: A batch of validation data, if there is one.

    Raises:
        NotApplicableError: If the step does not compare predictions with targets, the targets
            move, or the time would not suffice.
    """
    begun = time.monotonic()
    with replica.working():
        samples, chosen = _choose(replica, batch)
        drill = _Drill(replica, training, samples.pick(chosen), begun, allowed)
        arms = drill.run()
        wider: list[OverfitArm] = []
        wider_chance = math.nan
        if not any(arm.solved or drill.gets_on(arm) for arm in arms):
            _require_told_apart(replica, samples, chosen)
            wide = drill.on(samples.pick(list(range(min(samples.size, WIDE)))))
            # Two may be too few: at the user's learning rate, and at the best.
            wider = wide.again([1.0, min(arms, key=_lowest).factor])
            wider_chance = wide.chance
        rest = [i for i in range(samples.size) if i not in chosen][:UNSEEN]
        others = samples.pick(rest) if rest else None
        unseen, unseen_chance, validated = _unseen(replica, others, validation, drill.metric)
    return Overfit(
        step=step,
        epoch=epoch,
        samples=len(chosen),
        function=drill.pair.function,
        place=drill.pair.place,
        metric=drill.metric,
        chance=drill.chance,
        many=drill.many,
        constant=drill.constant,
        unseen=unseen,
        unseen_chance=unseen_chance,
        validated=validated,
        arms=tuple(arms),
        wider=tuple(wider),
        wider_chance=wider_chance,
        whole=drill.whole,
        seconds=time.monotonic() - begun,
    )


@dataclass(frozen=True, slots=True)
class Score:
    """How well a prediction fits its target.

    Attributes:
        metric: ``"accuracy"`` or ``"explained variance"``.
        value: 1 where all is right.
        chance: What the best constant gets; for explained variance that is 0.
        many: Of how many predictions.
        constant: The mean cross-entropy of the best constant; nan for real targets.
    """

    metric: str
    value: float
    chance: float
    many: int
    constant: float = math.nan

    @property
    def perfect(self) -> bool:
        """Tell whether the targets are known by heart, or nearly all of many."""
        if self.metric != "accuracy":
            return self.value >= KNOWN
        return self.value >= (1.0 if self.many <= FEW else NEARLY)


def scored(pair: Pair) -> Score | None:
    """Return how well a prediction fits; None for what is no such comparison."""
    prediction, target = pair.prediction.detach(), pair.target
    integer = not target.is_floating_point() and target.dtype is not torch.bool
    if pair.function in BY_INDEX and integer and prediction.ndim == target.ndim + 1:
        return _accuracy(prediction, target, pair.counted)
    if pair.function == "cross_entropy" and prediction.shape == target.shape and target.ndim > 1:
        return _shared(*(t.movedim(1, -1).flatten(0, -2) for t in (prediction, target)))
    if prediction.shape != target.shape or prediction.is_complex():
        return None
    if pair.function in BINARY:
        logits = pair.function.endswith("logits")
        prediction = prediction.sigmoid() if logits else prediction
    elif pair.function not in REAL | DIFFERENCES | {"gaussian_nll_loss"}:
        return None
    return _explained(prediction.double(), target.double())


def _accuracy(prediction: Tensor, target: Tensor, counted: Tensor | None) -> Score | None:
    """Return the share of rows whose class, on the last axis, is clearly the highest."""
    if counted is not None:
        prediction, target = prediction[counted], target[counted]
    if not target.numel():
        return None
    prediction, target = prediction.reshape(-1, prediction.shape[-1]), target.reshape(-1, 1)
    others = prediction.scatter(1, target, -math.inf).amax(1)
    spread = prediction.amax(1) - prediction.amin(1)
    right = prediction.gather(1, target)[:, 0] - others > CLEAR * spread
    shares = target.flatten().bincount().double() / len(target)
    often = float(shares.max())
    if often == 1.0:
        return None
    constant = float(torch.special.entr(shares).sum())
    return Score("accuracy", float(right.float().mean()), often, len(target), constant)


def _shared(prediction: Tensor, target: Tensor) -> Score | None:
    """Return how well probabilities of classes are met, which rows of targets give.

    Where one class stands out in each row it has to be the highest; where several share the first
    place, each has to get its share.
    """
    counted = target.sum(1) > 0
    prediction, target = prediction[counted], target[counted]
    tied = (target == target.amax(1, keepdim=True)).sum(1) > 1
    if not bool(tied.any()):
        return _accuracy(prediction, target.argmax(1), None)
    shares = target.double() / target.double().sum(1, keepdim=True)
    return _explained(prediction.double().softmax(1), shares)


def _explained(prediction: Tensor, target: Tensor) -> Score | None:
    """Return the explained variance; each column has a constant of its own."""
    if not bool(prediction.isfinite().all()):
        return Score("explained variance", -math.inf, 0.0, target.numel())
    rows = len(target) if target.ndim and len(target) > 1 else target.numel()
    prediction, target = prediction.reshape(rows, -1), target.reshape(rows, -1)
    if rows < 2 or not bool((target != target[:1]).any()):
        return None
    value = float(r2_score(prediction, target, multioutput="variance_weighted"))
    return Score("explained variance", value, 0.0, target.numel())


class PairEar(TorchFunctionMode):
    """Hears what is compared in a training step, in which nothing is dropped.

    Attributes:
        pairs: What was compared, in order, and how well it fits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Pair, Score]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, and listen."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in DROPOUTS:
            args, kwargs = (args[:1], {"p": 0.0, "training": True}) if args else ((), kwargs)
            if func.__module__ != "torch.nn.functional":
                kwargs = {"p": 0.0, "train": True}
        elif "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        out = func(*args, **kwargs)
        if len(self.pairs) < MOST_PAIRS:
            pair = paired(func, name, args, kwargs, "training_step", out)
            score = scored(pair) if pair is not None else None
            if pair is not None and score is not None:
                self.pairs.append((pair, score))
        return out


def _choose(replica: Replica, batch: Any) -> tuple[Samples, list[int]]:
    """Return two samples whose targets differ as much as any."""
    samples = Samples(replica, batch)
    pairs = replica.forward(lambda: _listened(lambda: single(replica.losses(batch))))
    if not pairs:
        raise NotApplicableError("the step compares no predictions with targets that differ")
    first, _ = pairs[0]
    target = first.target
    if samples.size < 2 or target.shape[0] % samples.size:
        return samples, list(range(min(samples.size, 2)))
    rows = target.reshape(samples.size, -1)[:CANDIDATES].double()
    if first.function in BY_INDEX:
        apart = (rows != rows[:1]).sum(1)
    else:
        apart = (rows - rows[:1]).square().sum(1)
    return samples, [0, int(apart.argmax())] if bool(apart.any()) else [0, 1]


def _require_told_apart(replica: Replica, samples: Samples, chosen: Sequence[int]) -> None:
    """Refuse a model whose modules are given the same for all samples: it has no condition.

    Raises:
        NotApplicableError: If so.
    """
    one, other = (heard(replica, samples.pick([i, i])).outermost for i in (chosen[0], chosen[-1]))
    if len(chosen) < 2 or not one or [c.path for c in one] != [c.path for c in other]:
        return
    given = [
        pair
        for a, b in zip(one, other, strict=True)
        for pair in matched((a.args, a.kwargs), (b.args, b.kwargs))
    ]
    if not any(a.shape != b.shape or bool((a != b).any()) for a, b in given):
        raise NotApplicableError("the model is given the same for all samples")


class _Drill:
    """Trains on the same samples, again and again.

    Attributes:
        pair: The comparison that was learned best.
        whole: Whether the comparisons are all that the loss consists of.
        metric: How it is scored.
        chance: What the best constant scores.
        many: How many predictions it has.
        constant: The loss of the best constant, where that is known.
    """

    def __init__(
        self,
        replica: Replica,
        training: Training,
        batch: Any,
        begun: float,
        allowed: Callable[[float], float],
    ) -> None:
        self._replica = replica
        self._training = training
        self._batch = batch
        self._begun = begun
        self._allowed = allowed
        self._end = math.inf
        self._first: list[Tensor] = []
        self.pair: Pair
        self.whole = False
        self.metric = ""
        self.chance = math.nan
        self.many = 0
        self.constant = math.nan

    def run(self) -> list[OverfitArm]:
        """Train at the user's learning rate; where that does not do, at others."""
        arms = [self._arm(1.0)]
        if arms[0].solved or self.gets_on(arms[0]):
            return arms
        short = len(arms[0].losses) < FEWEST_STEPS
        if short and math.isfinite(arms[0].losses[-1]):
            seconds = (time.monotonic() - self._begun) / len(arms[0].losses) * STEPS
            raise NotApplicableError(f"{STEPS} steps of a copy would take {seconds:.0f} seconds")
        for factors in (LOWER, HIGHER) if _rose(arms[0]) else (HIGHER, LOWER):
            best = arms[0]
            for factor in factors:
                arm = self._other(factor)
                if arm is None:
                    break
                arms.append(arm)
                if arm.solved or self.gets_on(arm):
                    return arms
                if not _lowest(arm) < _lowest(best) - LOWER_BY * abs(_lowest(best)):
                    break
                best = arm
        return arms

    def on(self, batch: Any) -> _Drill:
        """Return the same for other samples, with as much time again."""
        drill = _Drill(self._replica, self._training, batch, self._begun, self._allowed)
        drill._end = 2.0 * self._end - self._begun
        return drill

    def again(self, factors: Sequence[float]) -> list[OverfitArm]:
        """Train at these learning rates.

        Raises:
            NotApplicableError: If there is no time for any.
        """
        found = [arm for factor in dict.fromkeys(factors) if (arm := self._other(factor))]
        if not found:
            raise NotApplicableError("the time for experiments was used up")
        return found

    def gets_on(self, arm: OverfitArm) -> bool:
        """Tell whether a training has gone a good way, though not all of it."""
        return arm.score >= self.chance + GOOD * (1.0 - self.chance)

    def _other(self, factor: float) -> OverfitArm | None:
        """Train at another learning rate; None where that fails, or time is up."""
        if time.monotonic() > self._end:
            return None
        try:
            arm = self._arm(factor)
        except NotApplicableError:
            return None
        return arm if time.monotonic() <= self._end or arm.solved else None

    def _arm(self, factor: float) -> OverfitArm:
        self._replica.restore()
        ear, losses, began = PairEar(), list[float](), time.monotonic()
        best: list[Score] = []

        @contextlib.contextmanager
        def around() -> Iterator[None]:
            seed(SEED)
            ear.pairs.clear()
            with ear:
                yield

        def after(loss: Tensor) -> bool:
            losses.append(float(loss.mean()))
            if len(losses) == TIMED and self._end == math.inf:
                step = (time.monotonic() - began) / TIMED
                self._end = self._begun + self._allowed(step)
            best[:] = [self._best(ear.pairs, losses[-1])]
            done = self._known(best[0], losses)
            over = not math.isfinite(losses[-1]) or time.monotonic() > self._end
            return done or over or _stands(losses)

        self._training(
            self._replica,
            lambda _: detached(self._batch),
            steps=STEPS,
            factor=factor,
            around=around,
            after=after,
        )
        if not losses or not best:
            raise NotApplicableError("the training of a copy made no step")
        return OverfitArm(
            factor=factor,
            losses=tuple(losses),
            score=best[0].value,
            solved=self._known(best[0], losses),
            still=self._still(),
        )

    def _best(self, pairs: Sequence[tuple[Pair, Score]], loss: float) -> Score:
        """Return the score of the comparison that fits best, and remember which it is."""
        if not pairs:
            raise NotApplicableError("the step compares no predictions with targets that differ")
        if not self._first:
            self._first = [pair.target for pair, _ in pairs]
        same = [
            pair.target.shape == first.shape and bool((pair.target == first).all())
            for (pair, _), first in zip(pairs, self._first, strict=False)
        ]
        if len(pairs) != len(self._first) or not all(same):
            raise NotApplicableError("the targets are others at each step")
        self.pair, best = max(pairs, key=lambda item: item[1].value)
        self.metric, self.chance, self.many = best.metric, best.chance, best.many
        self.constant = best.constant
        values = [_values(pair) for pair, _ in pairs]
        sums = values[0] if len(values) == 1 else [sum(several[0] for several in values)]
        self.whole = any(abs(value - loss) <= SAME * abs(loss) for value in sums)
        return best

    def _known(self, score: Score, losses: Sequence[float]) -> bool:
        """Tell whether the samples were learned: by training, and not by luck."""
        fallen = losses[-1] <= losses[0] - FALLEN * abs(losses[0]) or losses[-1] < LEARNED
        return score.perfect and (fallen or score.metric != "accuracy")

    def _still(self) -> tuple[str, ...]:
        starts = {id(tensor): value for tensor, value in self._replica.started()}
        return tuple(
            name
            for name, parameter in self._replica.parameters.items()
            if id(parameter) in starts and torch.equal(parameter.detach(), starts[id(parameter)])
        )


def _rose(arm: OverfitArm) -> bool:
    return not arm.losses[-1] <= arm.losses[0]


def _lowest(arm: OverfitArm) -> float:
    return min((loss for loss in arm.losses if math.isfinite(loss)), default=math.inf)


def _stands(losses: Sequence[float]) -> bool:
    """Tell whether the loss has not changed for a while."""
    recent = losses[-PAUSE:]
    long = len(losses) >= FEWEST_STEPS + PAUSE
    return long and max(recent) - min(recent) <= STILL * abs(recent[-1])


def _listened(run: Callable[[], Any]) -> list[tuple[Pair, Score]]:
    """Run something; return what was compared in it."""
    ear = PairEar()
    with ear:
        run()
    return ear.pairs


def _values(pair: Pair) -> list[float]:
    """Return what a comparison may contribute to the loss, the likeliest first."""
    if pair.value is not None:
        return [float(pair.value.mean()), float(pair.value.sum())]
    if pair.function in DIFFERENCES:
        apart = (pair.prediction - pair.target).double()
        square, rows = float(apart.square().sum()), len(apart)
        many = apart.numel()
        return [square / many, float(apart.abs().mean()), square, square / rows, square / many / 2]
    picked = pair.prediction.gather(-1, pair.target.unsqueeze(-1))
    return [-float(picked.mean()), -float(picked.sum())]


def _unseen(replica: Replica, rest: Any, validation: Any, metric: str) -> tuple[float, float, bool]:
    """Return the score on data that were not trained on, that of a constant, and which data."""
    step = getattr(replica.module, "validation_step", None)
    tries: list[tuple[bool, Callable[[], Any]]] = []
    if validation is not None and callable(step):
        tries.append((True, lambda: step(detached(validation), 0)))
    if rest is not None:
        tries.append((False, functools.partial(replica.advance, rest)))
    replica.module.eval()
    for validated, run in tries:
        try:
            pairs = replica.forward(functools.partial(_listened, run))
        except Exception:  # whatever the user's code raises where it is not at home
            continue
        scores = [score for _, score in pairs if score.metric == metric]
        best = max(scores, key=lambda score: score.value, default=None)
        if best is not None:
            return best.value, best.chance, validated
    return math.nan, math.nan, False
