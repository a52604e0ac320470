"""Trains copies for a few steps at several learning rates, where the run does not get on."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from lightning_debug.chance import BETTER, LEVELS, chance, only_call
from lightning_debug.experiments.batches import NotApplicableError, detached
from lightning_debug.experiments.replica import Replica, single, working_copy
from lightning_debug.observation import (
    Clipping,
    LossCalls,
    Losses,
    Observation,
    RateArm,
    RateTrial,
    Updates,
)
from lightning_debug.ratios import by_group

BATCHES = 4
STEPS = 20
FEWEST_STEPS = 8
ARMS = 4  # that there should be time for
BACKWARD = 3.0  # times as long as a forward pass takes a step
MOST_RATES = 5
# Of the first loss: a run that has lost more than this gets on, and needs no trial.
FALLEN = 0.2
# Of update over weight: what lies outside shows on which side to try first.
LARGE, SMALL = 3e-2, 3e-4
# Epochs without a rise after which a learning rate below its full size stays there.
STILL = 2
# Gradients are clipped where a step uses less than this of what backward wrote; to one norm, where
# that varies by no more than this.
CUT = 0.99
EVEN = 1.02
# Initial weights are kept until the trial is over, so they must not be large.
MOST_WEIGHTS = 64_000_000
# Of more, as many digits are kept as matter for where a learning rate leads, in half the memory.
EXACT_WEIGHTS = 1_000_000


class RateTrials:
    """Keeps what it takes to start again, until it is clear that the run gets on.

    At a learning rate that is far too high the weights are soon past saving, so a trial begins
    where the run began: with the initial weights, a new optimizer of the same settings, and
    nothing else changed but the learning rate. Each trial trains on the same few batches.

    Args:
        model: The module that is trained, never changed.
        optimizers: Its optimizers; a trial needs exactly one.
        waits: After how many updates to see whether the run gets on. One trial is made at most.
        clip: The trainer's limit on gradients (0 for none), and whether it is by ``"norm"`` or
            by ``"value"``. One that the user's code sets is seen in the run.
        precision: Gives the context in which the training step runs, such as autocast.
    """

    def __init__(
        self,
        model: Module,
        optimizers: Sequence[Optimizer],
        waits: Sequence[int] = (0,),
        *,
        clip: tuple[float, str] = (0.0, "norm"),
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model = model
        self._waits = list(waits)
        self._optimizers = optimizers
        self._clip = clip
        self._precision = precision
        self._initial: list[Tensor] = []
        self._batches: deque[Any] = deque(maxlen=BATCHES)
        self._first = math.nan
        self._recent: deque[float] = deque(maxlen=5)
        self._chances: deque[float] = deque(maxlen=LEVELS)
        self._rates: deque[float] = deque(maxlen=20)
        self._clippings: deque[Clipping] = deque(maxlen=20)
        self._highest = 0.0
        self._ratios: list[float] = []
        self._base = 0.0
        self._epoch = self._risen = 0

    def start(self) -> None:
        """Keep the initial weights."""
        tensors = self._tensors()
        if any(map(is_lazy, tensors)):
            return
        if len(self._optimizers) == 1 and sum(t.numel() for t in tensors) <= MOST_WEIGHTS:
            few = sum(t.numel() for t in tensors) <= EXACT_WEIGHTS
            self._initial = [_kept(t.detach(), exactly=few) for t in tensors]

    def due(self, updates: int) -> bool:
        """Tell whether to see how the run gets on, after so many updates of it."""
        return bool(self._waits) and updates >= self._waits[0]

    def hear(self, obs: Observation) -> None:
        """Follow how the run gets on."""
        if not self._waits:
            return
        if isinstance(obs, Losses):
            values = [value for _, value in obs.values]
            if math.isnan(self._first) and values:
                self._first = values[0]
            self._recent.extend(values)
        elif isinstance(obs, Clipping) and math.isfinite(obs.after):
            self._clippings.append(obs)
        elif isinstance(obs, LossCalls):
            call = only_call(obs)
            level = math.nan if call is None else chance(call)
            if math.isfinite(level):
                self._chances.append(level)
        elif isinstance(obs, Updates):
            groups = by_group(obs).values()
            if groups:
                self._rates.append(max(group.lr for group in groups))
                self._epoch = obs.epoch
                if self._rates[-1] > self._highest:
                    self._highest, self._risen = self._rates[-1], obs.epoch
                self._ratios.append(max(group.median for group in groups))
                self._base = max(group.base_lr for group in groups)

    def keep(self, batch: Any, updates: int) -> None:
        """Keep a copy of a batch, if a trial is near and may need it."""
        near = bool(self._waits) and updates >= self._waits[0] - BATCHES
        if near and self._initial and self._doubtful:
            self._batches.append(detached(batch))

    def forget(self) -> None:
        """Let go of all that was kept."""
        self._waits, self._initial, self._batches = [], [], deque(maxlen=BATCHES)

    def run(self, step: int, epoch: int, *, end: float) -> RateTrial | None:
        """Train copies at the learning rate of the run, and at others; None where it gets on.

        Args:
            step: Optimizer updates made so far.
            epoch: Epoch, counted from 0.
            end: When to stop, in seconds of ``time.monotonic``.

        Raises:
            NotApplicableError: If a copy cannot be trained, or that would tell nothing.
        """
        self._waits.pop(0)
        if self._waits and (self._rising or not self._doubtful):
            self._batches.clear()
            return None
        try:
            return self._tried(step, epoch, end) if self._doubtful else None
        finally:
            self.forget()

    def _tried(self, step: int, epoch: int, end: float) -> RateTrial:
        self._require()
        with working_copy(self._model, self._optimizers, precision=self._precision) as replica:
            return self._trial(replica, step, epoch, end)

    @property
    def _doubtful(self) -> bool:
        """Tell whether the loss has not come down by much, or is not finite any more.

        With large steps, coming down to what a constant prediction gives is not much either.
        """
        if not self._recent:
            return False
        fallen = median(self._recent) < self._first - FALLEN * abs(self._first)
        return not fallen or (self._ratio > LARGE and math.isfinite(self._chance))

    @property
    def _chance(self) -> float:
        """Return what a constant prediction gives at most; nan where the run does better.

        The batches of a trial are few, and a constant may do worse on them than on others.
        """
        known = len(self._chances) >= BATCHES and len(self._recent) > 0
        if not known or median(self._recent) < BETTER * fmean(self._chances):
            return math.nan
        return max(self._chances)

    @property
    def _ratio(self) -> float:
        """Return the largest update over weight so far."""
        return max(self._ratios, default=0.0)

    @property
    def _limit(self) -> tuple[float, str]:
        """Return the trainer's limit on gradients, or the norm that the user's code scales them to.

        Raises:
            NotApplicableError: If that changes them in another way.
        """
        changed = [c for c in self._clippings if c.after < CUT * c.before]
        if self._clip[0] > 0.0 or not changed:
            return self._clip
        limits = [c.after for c in changed]
        turned = any(c.cosine < CUT for c in changed)
        if turned or max(limits) > EVEN * min(limits):
            raise NotApplicableError("gradients are changed between backward and step")
        return max(limits), "norm"

    @property
    def _rising(self) -> bool:
        """Tell whether the learning rate still comes up, and has done no harm yet.

        One that comes up once an epoch stands still in between.
        """
        if not self._rates or self._epoch - self._risen >= STILL:
            return False
        warming = self._rates[-1] > self._rates[0] or self._rates[-1] == self._highest < self._base
        return warming and self._ratio <= LARGE

    def _require(self) -> None:
        if len(self._optimizers) != 1:
            raise NotApplicableError("there are several optimizers")
        if not self._initial:
            raise NotApplicableError("the initial weights are too many to keep")
        if not self._batches or not self._rates:
            raise NotApplicableError("too little of the run has been seen")
        if self._highest == 0.0:
            raise NotApplicableError("the learning rate is 0")
        if [t.shape for t in self._tensors()] != [t.shape for t in self._initial]:
            raise NotApplicableError("the model has other weights than it had at first")
        if self._rising:
            raise NotApplicableError("the learning rate is still rising")

    def _tensors(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]

    def _trial(self, replica: Replica, step: int, epoch: int, end: float) -> RateTrial:
        trainer = _Trainer(replica, self._optimizers[0], self._initial, self._limit, self._highest)
        batches = list(self._batches)
        begun = time.monotonic()
        replica.forward(lambda: trainer.start(batches[:1]))
        seconds = BACKWARD * (time.monotonic() - begun)
        steps = min(STEPS, int((end - begun) / (ARMS * max(seconds, 1e-9))))
        if steps < FEWEST_STEPS:
            raise NotApplicableError("the time for experiments would not suffice")
        start = trainer.start(batches)
        begun = time.monotonic()
        arms = [trainer.arm(1.0, batches, steps)]
        spent = time.monotonic() - begun
        decays = any(group.get("weight_decay") for group in self._optimizers[0].param_groups)
        undecayed = trainer.arm(1.0, batches, steps, weight_decay=False) if decays else None
        for factors in self._ladders():
            best = arms[0]
            for factor in factors:
                if time.monotonic() + spent > end:
                    break
                try:
                    arms.append(trainer.arm(factor, batches, steps))
                except NotApplicableError:
                    break  # not at this rate
                # Far above the best rate, all rates are equally bad.
                if not arms[-1].end < best.end and not (factor < 1.0 and self._ratio > LARGE):
                    break
                best = arms[-1]
        return RateTrial(
            step=step,
            epoch=epoch,
            optimizer=type(self._optimizers[0]).__name__,
            lr=self._highest,
            base=self._base,
            ratio=self._ratio,
            typical=median(self._ratios),
            run=(self._first, fmean(self._recent)),
            start=start,
            chance=self._chance,
            arms=tuple(sorted(arms, key=lambda arm: arm.factor)),
            undecayed=undecayed,
        )

    def _ladders(self) -> Iterator[list[float]]:
        """Yield the other learning rates to try, away from that of the run."""
        if not self._ratio < SMALL:
            yield [0.1**n for n in range(1, 4)]
        if not self._ratio > LARGE:
            yield [10.0**n for n in range(1, MOST_RATES)]


class _Trainer:
    """Trains a replica from the initial weights, as the loop of the run does."""

    def __init__(
        self,
        replica: Replica,
        optimizer: Optimizer,
        initial: Sequence[Tensor],
        clip: tuple[float, str],
        highest: float,
    ) -> None:
        self._replica = replica
        self._optimizer = optimizer
        self._clip = clip
        self._highest = highest
        replica.rebase(initial)

    def start(self, batches: Sequence[Any]) -> float:
        """Return the mean loss of the initial weights."""
        self._replica.restore()
        return self._level(batches)

    def _level(self, batches: Sequence[Any]) -> float:
        losses = [self._loss(batch) for batch in batches]
        mean = torch.stack(losses).mean().item()
        return mean if math.isfinite(mean) else math.inf

    def _loss(self, batch: Any) -> Tensor:
        """Return the first loss of a batch, without its graph."""
        losses = self._replica.advance(batch)
        if not losses:
            raise NotApplicableError("the training step tells no loss")
        return losses[0].detach()

    def arm(
        self, factor: float, batches: Sequence[Any], steps: int, *, weight_decay: bool = True
    ) -> RateArm:
        """Train for some steps at a multiple of the learning rate, and see where that leads."""
        optimizer = _fresh(self._optimizer, self._replica.twins)
        groups = optimizer.param_groups
        # A schedule may have brought the rates down to 0 by now.
        now = [group["lr"] or group.get("initial_lr", 0.0) for group in groups]
        for group, rate in zip(groups, now, strict=True):
            group["lr"] = rate / max(now) * self._highest * factor
            group |= {} if weight_decay else {"weight_decay": 0.0}
        self._replica.restore()
        losses = [self._step(optimizer, batches[i % len(batches)], i) for i in range(steps)]
        values = torch.stack(losses).tolist()
        return RateArm(factor=factor, losses=tuple(values), end=self._level(batches))

    def _step(self, optimizer: Optimizer, batch: Any, index: int) -> Tensor:
        heard: list[Tensor] = []

        def closure() -> Tensor:
            loss = single(self._replica.advance(batch, index=index))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            heard.append(loss.detach())
            self._limit(optimizer)
            return loss

        try:
            optimizer.step(closure)  # type: ignore[arg-type]
        except RuntimeError as error:  # such as a rate beyond what float16 can hold
            raise NotApplicableError(f"the optimizer fails on a copy: {error}") from error
        return heard[0]

    def _limit(self, optimizer: Optimizer) -> None:
        limit, algorithm = self._clip
        if limit > 0.0:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            clip = clip_grad_value_ if algorithm == "value" else clip_grad_norm_
            clip(held, limit)


def _kept(tensor: Tensor, *, exactly: bool) -> Tensor:
    """Return a copy; one of numbers in 32 bits has half as many, if it need not be exact."""
    shorter = tensor.dtype is torch.float32 and not exactly
    return tensor.to(torch.bfloat16) if shorter else tensor.clone()


def _fresh(optimizer: Optimizer, twins: Mapping[int, Tensor]) -> Optimizer:
    """Return an optimizer of the same class and settings, without state, for the copied weights.

    Raises:
        NotApplicableError: If it cannot be copied.
    """
    memo: dict[int, Any] = dict(twins)
    memo[id(optimizer.state)] = defaultdict(dict)
    try:
        twin = copy.deepcopy(optimizer, memo)
        for name, value in vars(optimizer).items():
            # What torch does not pickle; a wrapped step() would step the original.
            if name not in vars(twin) and not callable(value):
                vars(twin)[name] = copy.deepcopy(value, memo)
    except Exception as error:
        raise NotApplicableError(f"the optimizer cannot be copied: {error}") from error
    held = {id(p) for group in twin.param_groups for p in group["params"]}
    if not held <= {id(p) for p in twins.values()}:
        raise NotApplicableError("the optimizer holds weights that are not the model's")
    return twin
