"""Which experiments are made on a copy of the model, and when."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug.containment import Containment
from lightning_debug.experiments import gradients, provenance, underflow
from lightning_debug.experiments.attribution import explainers
from lightning_debug.experiments.baselines import Progress, baselines
from lightning_debug.experiments.future import future
from lightning_debug.experiments.inputs import inputs
from lightning_debug.experiments.kept import KeptBatches
from lightning_debug.experiments.memory import give_back, trimmed
from lightning_debug.experiments.mixing import mixing
from lightning_debug.experiments.noise import noise
from lightning_debug.experiments.overfit import overfit
from lightning_debug.experiments.padding import padding
from lightning_debug.experiments.pictures import Pictures, pictures
from lightning_debug.experiments.rates import RateTrials
from lightning_debug.experiments.repeat import repeat
from lightning_debug.experiments.replica import NotApplicableError, Replica, working_copy
from lightning_debug.experiments.shuffled import shuffled
from lightning_debug.experiments.training import Training
from lightning_debug.experiments.unsaved import Load
from lightning_debug.observation import (
    Baselines,
    BatchMixing,
    FutureLeak,
    GradientCheck,
    GradientNoise,
    InputUse,
    Observation,
    Overfit,
    PaddingUse,
    Precision,
    RateTrial,
    ShuffledLabels,
    StepRepeat,
)
from lightning_debug.picture import Picture

log = logging.getLogger("lightning_debug")
BURN_IN = 50
# Of the run; and updates after which it is late in any case.
LATE, LATEST = 0.75, 1000
# A gradient scaler makes infinities that a copy does not show.
TRACES = 3


class Probe(Protocol):
    """Tries something on a replica of the model, with a batch of training data.

    Raises:
        NotApplicableError: If it tells nothing about this model.
    """

    def __call__(self, replica: Replica, batch: Any, *, step: int, epoch: int) -> Observation:
        """Return what was seen."""


PROBES: Mapping[type[Observation], Probe] = {
    GradientCheck: gradients.check,
    BatchMixing: mixing,
    FutureLeak: future,
    PaddingUse: padding,
    InputUse: inputs,
    GradientNoise: noise,
}
# On a replica in the formats of the run; once it has been possible, that is enough.
PLAIN: Mapping[type[Observation], Probe] = {StepRepeat: repeat}
TITLES: Mapping[type[Observation], str] = {
    Precision: "gradients that float16 cannot hold",
    GradientCheck: "gradients against finite differences",
    BatchMixing: "another sample of the batch",
    FutureLeak: "another future",
    PaddingUse: "other padding",
    InputUse: "other inputs",
    GradientNoise: "gradients of parts of a batch",
    StepRepeat: "one step made twice",
    Overfit: "one or two samples by heart",
    RateTrial: "other learning rates",
    Baselines: "simple models on the same batches",
    ShuffledLabels: "shuffled labels",
    Pictures: "pictures of what it looks at",
}
# Times the budget of the probes.
TRIAL = 2.0


@dataclass(frozen=True, slots=True)
class Budget:
    """How long experiments may take.

    Attributes:
        probes: Seconds after which no further experiment is started that takes a few steps of a
            copy, each time that they are made.
        trainings: Seconds that a training of a copy may take in any case.
        share: Of the time that the run will take, that it may take as well.
        most: Seconds that it may take at most.
        pictures: Fewest and most seconds that pictures of the trained model may take.
    """

    probes: float = 10.0
    trainings: float = 6.0
    share: float = 0.02
    most: float = 60.0
    pictures: tuple[float, float] = (0.5, 2.0)

    def for_training(self, run: float) -> float:
        """Return the seconds for a training of a copy, in a run of so many seconds."""
        return max(self.trainings, min(self.share * run, self.most))

    def for_pictures(self, run: float) -> float:
        """Return the seconds for pictures, at the end of a run of so many seconds."""
        least, most = self.pictures
        return max(least, min(self.share * run, most))


@dataclass(frozen=True, slots=True)
class Made:
    """An experiment that was made, or could not be.

    Attributes:
        kind: The observation that came of it.
        step: Optimizer updates made before.
        seconds: How long it took.
        skipped: Why it could not be made; empty if it was.
        summary: What was seen, in a few words.
        curve: The loss of each step, where a copy was trained.
    """

    kind: type[Observation]
    step: int
    seconds: float
    skipped: str = ""
    summary: str = ""
    curve: tuple[float, ...] = ()


class Probes:
    """Makes the experiments twice in a run: before the first update, and after a burn-in.

    Some bugs hide in initial weights, as with branches that start at zero, and some only there.

    Args:
        model: The module that is trained, never changed.
        optimizers: Its optimizers.
        updates: Updates that the run will make; the burn-in is at most half of them.
        budget: How long they may take.
        clip: The trainer's limit on gradients (0 for none), and whether it is by ``"norm"`` or
            by ``"value"``.
        precision: Gives the context in which the training step runs, such as autocast.
        scaler: The trainer's gradient scaler, if it has one.
        training: Trains copies; None for no trainings.
        validation: A batch of validation data; None where there is none yet.
        announce: Entered, with its name, while an experiment is made.
        skippable: Whether Ctrl-C ends the experiment that is made, and not the run.
        alone: Entered while the code of the user runs on a copy, where there are processes that
            do not make the experiment and must not be waited for.

    Attributes:
        made: The experiments so far, in order.
    """

    def __init__(
        self,
        model: Module,
        optimizers: Sequence[Optimizer],
        *,
        updates: float = float("inf"),
        budget: Budget = Budget(),
        clip: tuple[float, str] = (0.0, "norm"),
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        scaler: object = None,
        training: Training | None = None,
        validation: Any = None,
        announce: Callable[[str], AbstractContextManager[Any]] = nullcontext,
        skippable: bool = False,
        alone: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._budget = budget
        self._precision = precision
        self._scaler = scaler
        self._training = training
        self._updates = updates
        self._validation = validation
        self._announce = announce
        self._skippable = skippable
        self._alone = alone
        self.made: list[Made] = []
        self._half = False
        self._traces = TRACES
        burnt_in = int(min(BURN_IN, updates // 2))
        late = int(min(LATE * updates, LATEST))
        self._waits = [0, burnt_in]
        waits = [burnt_in, late] if late > 2 * burnt_in else [burnt_in]
        self._rates = RateTrials(model, optimizers, waits, clip=clip, precision=precision)
        self._start: int | None = None
        self._done: set[type[Observation]] = set()
        self._kept = KeptBatches()
        self._load = Load()
        self._begun = time.monotonic()
        self._progress = Progress()
        self._shuffled = False

    def due(self, step: int) -> bool:
        """Tell whether it is time, after this many updates."""
        if self._start is None:
            self._start = step
        made = step - self._start
        return self._rates.due(made) or (bool(self._waits) and made >= self._waits[0])

    def hear(self, obs: Observation) -> None:
        """Follow how the run gets on."""
        self._half = self._half or (isinstance(obs, Precision) and obs.half)
        self._rates.hear(obs)
        self._progress.hear(obs)

    def passes(self, batch: Any, step: int, *, wants: Callable[[type[Observation]], bool]) -> None:
        """A batch starts: keep what experiments will need, if they are to be made."""
        if not wants(RateTrial):
            self._rates.forget()
        elif self._start is None:
            self._start = step
            self._rates.start()
        else:
            try:
                self._rates.keep(batch, step - self._start)
            except NotApplicableError as reason:
                log.info("lightning_debug: no trial of learning rates: %s", reason)
                self._rates.forget()

    def looks_at(
        self, batch: Any, *, wants: Callable[[type[Observation]], bool], draws: bool = False
    ) -> None:
        """A look begins: keep a copy of the batch, if it is one of those to be kept.

        For pictures alone, the first one is enough.
        """
        if wants(Baselines) or wants(ShuffledLabels) or (draws and not self._kept.seen):
            self._kept.keep(batch)

    def run(
        self,
        batch: Any,
        step: int,
        epoch: int,
        *,
        wants: Callable[[type[Observation]], bool],
        contain: Containment,
    ) -> Iterator[Observation]:
        """Make the experiments that somebody asks for; those that cannot be made say why.

        Args:
            batch: What the training step is about to get.
            step: Optimizer updates made so far.
            epoch: Epoch, counted from 0.
            wants: Tells whether a kind of observation is asked for.
            contain: Switches off the experiment that fails for a reason of ours.
        """
        updates = step - (self._start or 0)
        if self._rates.due(updates):
            yield from self._try(RateTrial, step, epoch, contain, self._rate_trial)
            if not contain.works(_part(RateTrial)):
                self._rates.forget()
        if not self._waits or updates < self._waits[0]:
            return
        self._waits = [wait for wait in self._waits if wait > updates]

        def asked(kind: type[Observation]) -> bool:
            return wants(kind) and contain.works(_part(kind))

        if updates == 0 and self._training is not None and asked(Overfit):
            yield from self._try(Overfit, step, epoch, contain, self._overfit, batch)
        if asked(Precision):
            yield from self._try(Precision, step, epoch, contain, self._underflow, batch)
        for kind, probe in PLAIN.items():
            if asked(kind) and kind not in self._done:
                for obs in self._try(kind, step, epoch, contain, self._plain, probe, batch):
                    self._done |= set() if getattr(obs, "skipped", "") else {kind}
                    yield obs
        wanted = {kind: probe for kind, probe in PROBES.items() if asked(kind)}
        if wanted:
            yield from self._probes(wanted, batch, step, epoch, contain)
        if asked(ShuffledLabels) and self._kept.enough:
            yield from self._shuffle(step, epoch, contain, last=False)

    def _probes(
        self,
        wanted: Mapping[type[Observation], Probe],
        batch: Any,
        step: int,
        epoch: int,
        contain: Containment,
    ) -> Iterator[Observation]:
        """Make the experiments that share one replica in float64."""
        end = time.monotonic() + self._budget.probes
        try:
            replica = Replica(self._model, self._optimizers, load=self._load)
        except NotApplicableError as error:
            reason = str(error)
            for kind in wanted:
                yield from self._try(kind, step, epoch, contain, _refuse, reason)
            return

        def make(probe: Probe, step: int, epoch: int) -> Observation:
            if time.monotonic() > end:
                raise NotApplicableError("the time for experiments was used up")
            replica.evaluating = False
            with replica.working():
                return probe(replica, batch, step=step, epoch=epoch)

        try:
            for kind, probe in wanted.items():
                yield from self._try(kind, step, epoch, contain, make, probe)
        finally:
            replica.release()
            give_back()

    def _try(
        self,
        kind: type[Observation],
        step: int,
        epoch: int,
        contain: Containment,
        make: Callable[..., Observation | None],
        *args: Any,
    ) -> Iterator[Observation]:
        """Make one experiment and note what came of it; one that cannot be made says why."""
        begun = time.monotonic()
        with trimmed(), contain(_part(kind)):
            try:
                with self._alone(), self._announce(TITLES[kind]):
                    obs = make(*args, step=step, epoch=epoch)
            except NotApplicableError as reason:
                obs = _skipped(kind, step, epoch, str(reason))
            except KeyboardInterrupt:
                if not self._skippable:
                    raise
                obs = _skipped(kind, step, epoch, "skipped by Ctrl-C")
            if obs is None:
                return
            seconds, skipped = time.monotonic() - begun, getattr(obs, "skipped", "")
            self.made.append(Made(kind, step, seconds, skipped, obs.summary, obs.curve))
            yield obs

    def end(
        self,
        step: int,
        epoch: int,
        *,
        wants: Callable[[type[Observation]], bool],
        contain: Containment,
        draw: Callable[[Picture], None] | None = None,
    ) -> Iterator[Observation]:
        """Make the experiments that come after the last update of a run that was completed.

        Args:
            step: Optimizer updates made.
            epoch: Epoch, counted from 0.
            wants: Tells whether a kind of observation is asked for.
            contain: Switches off the experiment that fails for a reason of ours.
            draw: Takes pictures of what the model looks at; None if nobody wants any.
        """
        if wants(ShuffledLabels) and contain.works(_part(ShuffledLabels)) and not self._shuffled:
            yield from self._shuffle(step, epoch, contain, last=True)
        if wants(Baselines) and contain.works(_part(Baselines)):
            make = self._on_kept
            seconds = self._budget.for_training(time.monotonic() - self._begun)
            args = baselines, self._progress, seconds
            yield from self._try(Baselines, step, epoch, contain, make, *args)
        if draw is not None:
            # Noted as an experiment; there is nothing in it to judge.
            list(self._try(Pictures, step, epoch, contain, self._draw, draw))
        self._kept.forget()

    def _draw(self, draw: Callable[[Picture], None], *, step: int, epoch: int) -> Observation:
        """Draw what a copy looks at, and hand it on once nothing is isolated any more."""
        made: list[Picture] = []
        batch, *_ = self._kept.batches
        means, now = explainers(self._model, batch), time.monotonic()
        end = now + self._budget.for_pictures(now - self._begun)
        try:
            with self._copy() as replica:
                return pictures(replica, batch, made.append, means, end, step=step, epoch=epoch)
        finally:
            for picture in made:
                draw(picture)

    def _shuffle(
        self, step: int, epoch: int, contain: Containment, *, last: bool
    ) -> Iterator[Observation]:
        """Compare labels with the same labels in other orders, until it is clear what they are."""
        make = self._on_kept, partial(shuffled, last=last)
        for obs in self._try(ShuffledLabels, step, epoch, contain, *make):
            self._shuffled = True
            yield obs

    def _overfit(self, batch: Any, *, step: int, epoch: int) -> Observation:
        """Train a copy on two samples."""
        validation, self._validation = self._validation, None
        if self._training is None:
            raise NotApplicableError("there is nothing to train a copy with")

        def allowed(seconds: float) -> float:
            return self._budget.for_training(seconds * self._updates)

        replica = Replica(self._model, self._optimizers, dtype=None, load=self._load)
        try:
            return overfit(
                replica,
                batch,
                self._training,
                step=step,
                epoch=epoch,
                allowed=allowed,
                validation=validation,
            )
        finally:
            replica.release()

    def _on_kept(
        self, make: Callable[..., Observation | None], *args: Any, **where: int
    ) -> Observation | None:
        """Make an experiment on the batches that were kept and on a replica, as precise as it."""
        batches = self._kept.batches
        with self._copy() as replica:
            return make(replica, batches, *args, **where)

    def _plain(self, probe: Probe, batch: Any, *, step: int, epoch: int) -> Observation:
        """Try something on a replica in the formats of the run."""
        with self._copy() as replica:
            return probe(replica, batch, step=step, epoch=epoch)

    def _underflow(self, batch: Any, *, step: int, epoch: int) -> Observation | None:
        """Look for gradients that are lost in float16, if there are numbers of that type."""
        if not self._half and not underflow.in_half(self._model, self._precision):
            return None
        scale = getattr(self._scaler, "get_scale", lambda: 1.0)()
        with self._copy() as replica:
            return underflow.flushed(replica, batch, step=step, epoch=epoch, scale=scale)

    def _copy(self) -> AbstractContextManager[Replica]:
        """Return a replica in the formats of the run, for the length of a context."""
        return working_copy(
            self._model, self._optimizers, precision=self._precision, load=self._load
        )

    def _rate_trial(self, *, step: int, epoch: int) -> Observation | None:
        # A run that does not get on has the time.
        end = time.monotonic() + TRIAL * self._budget.probes
        return self._rates.run(step, epoch, end=end)

    @property
    def traces(self) -> bool:
        """Tell whether it is still of interest where NaN comes from; once found, it is not."""
        return self._traces > 0

    def birth(self, batch: Any, step: int, epoch: int) -> Observation | None:
        """Find the operation that makes NaN of a batch, while the weights are still finite."""
        self._traces -= 1
        try:
            with self._alone(), self._copy() as replica:
                obs = provenance.birth(replica, batch, step=step, epoch=epoch)
            self._traces = 0
            return obs
        except NotApplicableError as reason:
            log.info("lightning_debug: NaN at step %d is not traced: %s", step, reason)
            return None


def _part(kind: type[Observation]) -> str:
    return f"the experiment {kind.__name__}"


def _refuse(reason: str, *, step: int, epoch: int) -> Observation:
    raise NotApplicableError(reason)


def _skipped(kind: type[Observation], step: int, epoch: int, reason: str) -> Observation:
    log.info("lightning_debug: no %s at step %d: %s", kind.__name__, step, reason)
    return kind(step=step, epoch=epoch, skipped=reason)  # type: ignore[call-arg]
