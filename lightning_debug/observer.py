"""One observer for one run: says when to look, and what becomes of what was seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug import together
from lightning_debug.experiments.probes import Probes
from lightning_debug.glances import Glances
from lightning_debug.looks import Look, Looks, is_broken
from lightning_debug.observation import (
    Loader,
    Losses,
    NonFiniteBirth,
    Observation,
    Plan,
    RunEnd,
    RunStart,
)
from lightning_debug.schedule import DEFAULT_EVERY, Clock, Schedule
from lightning_debug.session import Session
from lightning_debug.taps.dropouts import Probabilities
from lightning_debug.taps.ranks import RankTap
from lightning_debug.taps.schedules import Course
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.uncounted import UncountedSteps
from lightning_debug.taps.wiring import Wiring
from lightning_debug.validation_observer import ValidationObserver

LOSSES_KEPT = 1000
PATIENT = 64


class Observer:
    """Watches a model and its optimizers through the events of a training loop.

    Between two looks nothing is attached and nothing is read; only the loss of each step is kept,
    as a tensor on its device.

    Args:
        model: The module that is trained.
        optimizers: Its optimizers.
        session: Gets the observations.
        schedule: Says when to look.
        scheduled: Optimizers whose learning rate a scheduler drives.
        resumed: Whether training goes on from a checkpoint.
        seeded: Whether somebody has seeded the random numbers.
        loader: What is known of the training data.
        alone: Whether this is the only process of the run.
        ranks: Compares this process with the others; None where there are none.
        ties: Names of parameters that were one when the trainer got the model.
        probes: Experiments on a copy of the model; None for none.
        plan: What the run is set up to do; its optimizers are filled in.
        scaler: The trainer's gradient scaler, if it has one.
        course: The schedulers, and what bears on them.
        probabilities: Knows what validation before training has changed.

    Attributes:
        validation: Watches validation and the metrics that are logged.
    """

    def __init__(
        self,
        model: Module,
        optimizers: Sequence[Optimizer],
        session: Session,
        schedule: Schedule,
        *,
        scheduled: Iterable[Optimizer] = (),
        resumed: bool = False,
        seeded: bool = True,
        loader: Loader | None = None,
        alone: bool = True,
        ranks: RankTap | None = None,
        ties: Iterable[tuple[str, ...]] = (),
        probes: Probes | None = None,
        plan: Plan | None = None,
        scaler: object = None,
        course: Course | None = None,
        probabilities: Probabilities | None = None,
    ) -> None:
        self._session = session
        self._contain = session.contain
        self._schedule = schedule
        self._plan = plan or Plan()
        self._loader = loader or Loader()
        self._resumed = resumed
        self._seeded = seeded
        self._probes = probes
        self._ranks = ranks
        self._wiring = Wiring(model, optimizers, scheduled)
        self._uncounted = UncountedSteps(self._wiring)
        known = probabilities or Probabilities(model)
        self._looks = Looks(
            model,
            self._wiring,
            session,
            self._plan,
            self.before_optimizer_step,
            resumed=resumed,
            ties=ties,
            copies=probes is not None,
            scaler=scaler,
            course=course or Course(),
            probabilities=known,
        )
        self._glances = Glances(self._wiring, session, schedule)
        self.validation = ValidationObserver(model, session, self._looks.norms, known, alone=alone)
        self._kept: deque[tuple[int, Tensor]] = deque(maxlen=LOSSES_KEPT)
        self._sent: Look | None = None
        self._shared: Look | None = None
        self._clock = Clock()
        self._step = self._epoch = 0
        self._batch: Any = None
        self._fruitless = 0
        self._idle = 0

    @property
    def uncounted(self) -> int:
        """Return the optimizer updates that were made and that the trainer has not counted."""
        return self._uncounted.made

    def start(self, step: int, epoch: int) -> None:
        """Measure the state before the first step."""
        if self._resumed:
            self._schedule.resume(step)
        if self._session.wants(RunStart):
            with self._contain("the tap on parameters"):
                self._show(
                    RunStart(
                        step=step,
                        epoch=epoch,
                        parameters=self._looks.initial(),
                        resumed=self._resumed,
                        seeded=self._seeded,
                        loader=self._loader,
                    )
                )
        with self._contain("the plan of the run"):
            optimizers = self._wiring.plan()
            plan = replace(self._plan, step=step, epoch=epoch, optimizers=optimizers)
            self._show(replace(plan, trials=self._probes is not None))
        for obs in self._looks.start(step, epoch):
            self._show(obs)

    def batch_start(self, batch: Any, index: int, step: int, epoch: int, *, updates: bool) -> None:
        """Begin a look or a glance if it is time.

        Args:
            batch: The batch, of any shape.
            index: Its number in the epoch.
            step: Optimizer updates made so far.
            epoch: Epoch, counted from 0.
            updates: Whether an optimizer step is expected in this batch.
        """
        self.break_off()
        self._read()
        if self._probes is not None:
            self._try_out(self._probes, batch, step, epoch)
        self._clock.start()
        self._step, self._epoch, self._batch = step, epoch, batch
        self._looks.passes(batch, index, step, epoch)
        first = self._looks.count == 0
        self._idle -= 1
        if not (first or (updates and self._schedule.due(step) and self._idle <= 0)):
            return
        if not (first or self._schedule.whole(step)):
            self._glances.begin(step, epoch)
            return
        self._conclude()
        look = Look(step, epoch, index, first)
        if self._probes is not None:
            with self._contain("the experiments on a copy"):
                wants, draws = self._session.wants, self._session.draws
                self._probes.looks_at(batch, wants=wants, draws=draws)
        if self._ranks is not None:
            with self._talking():
                self._ranks.begin(look.ledger)
        self._looks.begin(look, batch)

    def break_off(self) -> None:
        """Forget a look of which the batch never ended, as after a StopIteration."""
        self._glances.break_off()
        self._end_look()

    def forward_ends(self) -> None:
        """The loss of an automatic step is there; what comes now belongs to the optimizer."""
        self._looks.pause()

    def before_backward(self, loss: Tensor, value: Tensor) -> None:
        """Backward starts from a loss.

        Args:
            loss: The loss with its graph.
            value: The same without.
        """
        self._looks.before_backward(loss)
        if self._traces and not self._looks.stepping and is_broken(value):
            self._trace_birth()

    def after_backward(self) -> None:
        """Backward is over."""
        self._looks.after_backward()

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to use its gradients."""
        if self._looks.open:
            broken = self._looks.before_step(optimizer) and self._traces
        else:
            broken = self._traces and self._looks.broken(optimizer)
        if broken:
            self._trace_birth()
        if not self._looks.open:
            self._looks.unseen_step(optimizer, self._step)
            self._glances.before_step(optimizer)

    def batch_end(self, loss: Tensor | None, step: int, *, last: bool = False) -> None:
        """Keep the loss of the batch, if there is one; at a look, close the taps and send.

        Args:
            loss: The loss of the batch.
            step: Optimizer updates made by now.
            last: Whether the epoch ends with it.
        """
        if last:
            self._looks.epoch_ends()
        if loss is not None:
            self._kept.append((self._step, loss.detach()))
        self._batch = None
        look = self._end_look()
        if look is not None:
            self._plan_next(look, step)
            self._send(look)
            self._clock.stop(looked=True)
        elif self._glances.open:
            self._glances.end(loss)
        else:
            self._clock.stop(looked=False)

    def losses(self) -> tuple[tuple[int, float], ...]:
        """Read the losses since the last look was shown, as ``(step, loss)``."""
        losses: list[tuple[int, float]] = []
        with self._contain("the losses since the last look"):
            ledger = Ledger()
            noted = [(at, ledger.note(value.mean())) for at, value in self._kept]
            ledger.send()
            ledger.settle()
            # Those of a look that is on its way are not kept any more.
            waiting = [look for look in (self._shared, self._sent) if look is not None]
            for look in waiting:
                look.ledger.settle()
            sent = [loss for look in waiting for loss in look.losses]
            losses.extend((at, entry.value) for at, entry in (*sent, *noted))
        return tuple(losses)

    def close(self, step: int, epoch: int, *, completed: bool) -> None:
        """Close the taps, whatever state they are in, and observe what is left."""
        self._uncounted.end()
        self._end_look()
        self.validation.close()
        self._read()
        if self._ranks is not None and not (completed or self._ranks.arrived):
            self._ranks.forget()
        self._conclude()
        if self._kept:
            with self._contain("reading the last losses"):
                ledger = Ledger()
                losses = self._note_losses(ledger)
                self._looks.batch.flush(ledger)
                ledger.send()
                ledger.settle()
                self._show(
                    Losses(step=step, epoch=epoch, values=tuple((n, e.value) for n, e in losses))
                )
                self._show(self._looks.batch.rest(step, epoch))
        for obs in self._looks.rest(step, epoch):
            self._show(obs)
        if completed:
            wants, contain = self._session.wants, self._contain
            draw = self._session.picture if self._session.draws else None
            self._experiment(
                lambda probes: probes.end(step, epoch, wants=wants, contain=contain, draw=draw)
            )
        self._show(RunEnd(step=step, epoch=epoch, completed=completed))

    def abandon(self) -> None:
        """Close the taps and forget what they saw, after a failure of ours."""
        self._uncounted.end()
        self.break_off()
        self.validation.close()
        self._kept.clear()

    def _note_losses(self, ledger: Ledger) -> list[tuple[int, Entry]]:
        """Note the losses since the last look, and let go of them."""
        losses = [(step, ledger.note(loss.mean())) for step, loss in self._kept]
        self._kept.clear()
        return losses

    @property
    def _traces(self) -> bool:
        """Tell whether the first value that is not finite is to be traced."""
        wanted = self._probes is not None and self._probes.traces
        return wanted and self._session.wants(NonFiniteBirth)

    def _trace_birth(self) -> None:
        """Find out where NaN comes from, while the weights are still what they were."""
        where = self._batch, self._step, self._epoch
        self._experiment(lambda probes: filter(None, [probes.birth(*where)]))

    def _try_out(self, probes: Probes, batch: Any, step: int, epoch: int) -> None:
        """Make the experiments that are due before a batch."""
        wants, contain = self._session.wants, self._contain
        with contain("the experiments on a copy"):
            probes.passes(batch, step, wants=wants)
        if probes.due(step):
            self._experiment(lambda p: p.run(batch, step, epoch, wants=wants, contain=contain))

    def _experiment(self, made: Callable[[Probes], Iterable[Observation]]) -> None:
        """Make experiments and show what came of them, while no other thread trains."""
        with together.while_alone() as alone:
            if self._probes is None or not alone:
                return
            with self._contain("the experiments on a copy"):
                for obs in made(self._probes):
                    self._show(obs)

    def _end_look(self) -> Look | None:
        look = self._looks.end()
        if look is not None:
            self.validation.note(look.thresholds)
        return look

    def _plan_next(self, look: Look, step: int) -> None:
        """Say when to look next, after a look that ended with so many updates made."""
        if look.stepped and step == look.step and not self._plan.automatic:
            with self._contain("the count of optimizer steps"):
                self._uncounted.begin(look.stepped.total())
        if look.stepped:
            # All processes have to look at the same steps.
            cost = self._ranks.cost if self._ranks else self._clock.cost
            self._schedule.looked(look.step, cost)
            self._fruitless = 0
        else:
            # Manual optimization may accumulate, so look on until a step comes; but not for ever.
            self._fruitless += 1
            if self._fruitless > PATIENT:
                self._idle = self._schedule.every_n_steps or DEFAULT_EVERY

    def _send(self, look: Look) -> None:
        """Send the numbers of a look on their way; reads them where that does not wait."""
        with self._contain("sending the numbers of a look"):
            look.losses = self._note_losses(look.ledger)
            self._looks.batch.flush(look.ledger)
            look.ledger.send()
            self._sent = look
        if look.ledger.arrived:
            self._read()

    def _read(self) -> None:
        """Take the numbers of a look, if there was one, and show them; in one process at once."""
        self._glances.read()
        look, self._sent = self._sent, None
        if look is not None:
            with self._contain("reading the numbers of a look"):
                look.ledger.settle()
                self._shared = look
                if self._ranks is not None:
                    self._share(look)
        if self._ranks is None or self._ranks.arrived or not self._ranks.waiting:
            self._conclude()

    def _share(self, look: Look) -> None:
        """Start to add up the numbers of a look over all processes."""
        if self._ranks is not None:
            with self._talking():
                drafts = [draft for _, draft in look.gradients]
                mark, cost = self._looks.batch.mark(), self._clock.cost
                self._ranks.send(look.step, look.epoch, drafts, look.updates, mark, cost)

    def _conclude(self) -> None:
        """Show the numbers of a look, once those of the other processes have come, or too late."""
        look, self._shared = self._shared, None
        if look is None:
            return
        ranks = None
        if self._ranks is not None:
            with self._talking():
                ranks = self._ranks.take()
        with self._contain("reading the numbers of a look"):
            for obs in self._looks.observations(look):
                self._show(obs)
            if ranks is not None:
                self._show(ranks)
            self._session.end_look(look.step, look.epoch)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Contain what fails between processes; who does not answer is not asked again."""
        with self._contain(RankTap.name):
            yield
        if not self._contain.works(RankTap.name):
            self._ranks = None

    def _show(self, obs: Observation) -> None:
        if self._probes is not None:
            self._probes.hear(obs)
        if isinstance(obs, (RunEnd, Losses)) or self._session.wants(type(obs)):
            self._session.observe(obs)
