"""Which experiments are made on a copy of the model, and when."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug.containment import Containment
from lightning_debug.experiments import gradients, provenance, underflow
from lightning_debug.experiments.future import future
from lightning_debug.experiments.inputs import inputs
from lightning_debug.experiments.mixing import mixing
from lightning_debug.experiments.noise import noise
from lightning_debug.experiments.padding import padding
from lightning_debug.experiments.rates import RateTrials
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.observation import (
    BatchMixing,
    FutureLeak,
    GradientCheck,
    GradientNoise,
    InputUse,
    Observation,
    PaddingUse,
    Precision,
    RateTrial,
)

log = logging.getLogger("lightning_debug")
BURN_IN = 50
# Of the run; and updates after which it is late in any case.
LATE, LATEST = 0.75, 1000
BUDGET = 10.0
TRIAL = 2.0
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


class Probes:
    """Makes the experiments twice in a run: before the first update, and after a burn-in.

    Some bugs hide in initial weights, as with branches that start at zero, and some only there.

    Args:
        model: The module that is trained, never changed.
        optimizers: Its optimizers.
        updates: Updates that the run will make; the burn-in is at most half of them.
        budget: Seconds after which no further experiment is started, each time.
        clip: The trainer's limit on gradients (0 for none), and whether it is by ``"norm"`` or
            by ``"value"``.
        precision: Gives the context in which the training step runs, such as autocast.
        scaler: The trainer's gradient scaler, if it has one.
    """

    def __init__(
        self,
        model: Module,
        optimizers: Sequence[Optimizer],
        *,
        updates: float = float("inf"),
        budget: float = BUDGET,
        clip: tuple[float, str] = (0.0, "norm"),
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        scaler: object = None,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._budget = budget
        self._precision = precision
        self._scaler = scaler
        self._half = False
        self._traces = TRACES
        burnt_in = int(min(BURN_IN, updates // 2))
        late = int(min(LATE * updates, LATEST))
        self._waits = [0, burnt_in]
        waits = [burnt_in, late] if late > 2 * burnt_in else [burnt_in]
        self._rates = RateTrials(model, optimizers, waits, clip=clip, precision=precision)
        self._start: int | None = None

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

    def passes(self, batch: Any, step: int, *, wants: Callable[[type[Observation]], bool]) -> None:
        """A batch starts: keep what a trial of learning rates will need, if there is to be one."""
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
        made = step - (self._start or 0)
        if self._rates.due(made):
            with contain(_part(RateTrial)):
                yield from self._trial(step, epoch)
            if not contain.works(_part(RateTrial)):
                self._rates.forget()
        if not self._waits or made < self._waits[0]:
            return
        self._waits = [wait for wait in self._waits if wait > made]
        if wants(Precision) and contain.works(_part(Precision)):
            with contain(_part(Precision)):
                yield from self._underflow(batch, step, epoch)
        working = {k: probe for k, probe in PROBES.items() if contain.works(_part(k))}
        wanted = {kind: probe for kind, probe in working.items() if wants(kind)}
        if not wanted:
            return
        end = time.monotonic() + self._budget
        try:
            replica = Replica(self._model, self._optimizers)
        except NotApplicableError as reason:
            yield from (_skipped(kind, step, epoch, str(reason)) for kind in wanted)
            return
        try:
            yield from self._made(replica, wanted, batch, step, epoch, contain, end)
        finally:
            replica.release()

    def _made(
        self,
        replica: Replica,
        wanted: Mapping[type[Observation], Probe],
        batch: Any,
        step: int,
        epoch: int,
        contain: Containment,
        end: float,
    ) -> Iterator[Observation]:
        for kind, probe in wanted.items():
            if time.monotonic() > end:
                yield _skipped(kind, step, epoch, "the time for experiments was used up")
                continue
            replica.evaluating = False
            with contain(_part(kind)):
                try:
                    with replica.working():
                        obs = probe(replica, batch, step=step, epoch=epoch)
                except NotApplicableError as reason:
                    obs = _skipped(kind, step, epoch, str(reason))
                yield obs

    def _underflow(self, batch: Any, step: int, epoch: int) -> Iterator[Observation]:
        """Look for gradients that are lost in float16, if there are numbers of that type."""
        if not self._half and not underflow.in_half(self._model, self._precision):
            return
        scale = getattr(self._scaler, "get_scale", lambda: 1.0)()
        try:
            replica = Replica(self._model, self._optimizers, dtype=None)
            try:
                with replica.working(), self._precision():
                    yield underflow.flushed(replica, batch, step=step, epoch=epoch, scale=scale)
            finally:
                replica.release()
        except NotApplicableError as reason:
            yield _skipped(Precision, step, epoch, str(reason))

    def _trial(self, step: int, epoch: int) -> Iterator[Observation]:
        try:
            # A run that does not get on has the time.
            end = time.monotonic() + TRIAL * self._budget
            obs = self._rates.run(step, epoch, end=end)
            if obs is not None:
                yield obs
        except NotApplicableError as reason:
            yield _skipped(RateTrial, step, epoch, str(reason))

    @property
    def traces(self) -> bool:
        """Tell whether it is still of interest where NaN comes from; once found, it is not."""
        return self._traces > 0

    def birth(self, batch: Any, step: int, epoch: int) -> Observation | None:
        """Find the operation that makes NaN of a batch, while the weights are still finite."""
        self._traces -= 1
        try:
            replica = Replica(self._model, self._optimizers, dtype=None)
            try:
                with replica.working(), self._precision():
                    obs = provenance.birth(replica, batch, step=step, epoch=epoch)
                self._traces = 0
                return obs
            finally:
                replica.release()
        except NotApplicableError as reason:
            log.info("lightning_debug: NaN at step %d is not traced: %s", step, reason)
            return None


def _part(kind: type[Observation]) -> str:
    return f"the experiment {kind.__name__}"


def _skipped(kind: type[Observation], step: int, epoch: int, reason: str) -> Observation:
    log.info("lightning_debug: no %s at step %d: %s", kind.__name__, step, reason)
    return kind(step=step, epoch=epoch, skipped=reason)  # type: ignore[call-arg]
