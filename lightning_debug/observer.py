"""One observer for one run: opens the taps at a look, and makes observations of what they saw."""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_debug import together
from lightning_debug.experiments.mode_gap import ModeGapTap
from lightning_debug.experiments.probes import Probes
from lightning_debug.experiments.rehearsal import rehearse
from lightning_debug.glances import Glances
from lightning_debug.observation import (
    Activations,
    Backward,
    Batch,
    Clipping,
    Connections,
    DataFlow,
    Gradients,
    Loader,
    LossCalls,
    Losses,
    LossTerms,
    Modes,
    NonFiniteBirth,
    Observation,
    Plan,
    RunEnd,
    RunStart,
    Updates,
    owner,
)
from lightning_debug.schedule import DEFAULT_EVERY, Clock, Schedule
from lightning_debug.session import Session
from lightning_debug.taps.batch_norms import BatchNormTap
from lightning_debug.taps.chains import ChainTap
from lightning_debug.taps.clipping import ClippingTap
from lightning_debug.taps.connections import ConnectionTap
from lightning_debug.taps.data import BatchTap
from lightning_debug.taps.dropouts import DropoutTap, Probabilities
from lightning_debug.taps.dropped_norm import DroppedNormTap
from lightning_debug.taps.eager import Eagerly
from lightning_debug.taps.entries import EntryTap
from lightning_debug.taps.filters import FilterTap
from lightning_debug.taps.forward import ForwardTap
from lightning_debug.taps.functions import FunctionTap, Listener
from lightning_debug.taps.gradients import GradientDraft, GradientTap
from lightning_debug.taps.handwritten import HandwrittenTap
from lightning_debug.taps.histograms import HistogramTap
from lightning_debug.taps.hooks import on_steps
from lightning_debug.taps.kept_graphs import KeptGraphTap
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.loss_calls import LossTap
from lightning_debug.taps.modes import ModeTap
from lightning_debug.taps.muted import MutedTap
from lightning_debug.taps.nonlinear import NonlinearTap
from lightning_debug.taps.precision import PrecisionTap
from lightning_debug.taps.ranks import RankTap
from lightning_debug.taps.recurrent import RecurrentTap
from lightning_debug.taps.replay import ReplayTap
from lightning_debug.taps.schedules import Course, ScheduleTap
from lightning_debug.taps.slopes import SlopeTap
from lightning_debug.taps.statistics import on_host
from lightning_debug.taps.structure import StructureTap
from lightning_debug.taps.terms import TermTap
from lightning_debug.taps.thresholds import ThresholdTap
from lightning_debug.taps.trace import Cut, Frame, Trace
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.uncounted import UncountedSteps
from lightning_debug.taps.updates import UpdateDraft, UpdateTap
from lightning_debug.taps.wiring import Wiring
from lightning_debug.validation_observer import ValidationObserver

LOSSES_KEPT = 1000
DATA_FLOW_LOOKS = 10
PATIENT = 64


@dataclass
class _Look:
    """One look: where in the run it is, and the drafts of what was seen."""

    step: int
    epoch: int
    index: int
    first: bool
    ledger: Ledger = field(default_factory=Ledger)
    losses: list[tuple[int, Entry]] = field(default_factory=list)
    gradients: list[tuple[Optimizer, GradientDraft]] = field(default_factory=list)
    updates: list[UpdateDraft] = field(default_factory=list)
    stepped: Counter[int] = field(default_factory=Counter)
    still: dict[str, Entry] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    routed: set[str] = field(default_factory=set)
    cuts: dict[str, Cut] = field(default_factory=dict)


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
        self._plan = plan or Plan()
        self._probes = probes
        self._contain = session.contain
        self._schedule = schedule
        self._resumed = resumed
        self._seeded = seeded
        self._wiring = Wiring(model, optimizers, scheduled)
        self._uncounted = UncountedSteps(self._wiring)
        self._trace = Trace({})
        self._batch = BatchTap()
        self._norms = BatchNormTap(self._trace, model)
        self._probabilities = probabilities or Probabilities(model)
        self.validation = ValidationObserver(
            model, session, self._norms, self._probabilities, alone=alone
        )
        self._classes = ThresholdTap(self._trace, "training_step")
        self._handwritten = HandwrittenTap(self._trace)
        self._replay = ReplayTap()
        self._losses = LossTap(self._trace, self._handwritten, self._replay)
        self._loader = loader or Loader()
        self._entries = EntryTap(self._trace)
        self._losses.told = self._entries.compared
        self._nonlinear = NonlinearTap(self._trace)
        self._dropped = DroppedNormTap(self._trace, model)
        self._muted = MutedTap()
        self._terms = TermTap(self._trace)
        self._model = model
        self._modes = ModeTap(self._trace, model, mode=False)
        self._chains = ChainTap(self._trace)
        self._recurrent = RecurrentTap(self._trace)
        self._connections = ConnectionTap(self._trace, model, self._wiring, ties)
        self._clipping = ClippingTap(self._wiring)
        self._look_taps: list[LookTap] = [
            ScheduleTap(
                model, self._wiring, self._plan, course or Course(), rehearse, resumed=resumed
            ),
            self._clipping,
            SlopeTap(self._wiring),
            PrecisionTap(self._wiring, model, scaler),
            self._norms,
            DropoutTap(self._trace, self._probabilities),
            *([ModeGapTap(model, optimizers, self._plan.updates)] if probes is not None else []),
            KeptGraphTap(model),
            *(self._drawing_taps(model) if session.draws else []),
        ]
        self._leaving: list[LookTap] = []
        # Between looks only those are told of a batch that do something about it.
        self._passed = [t for t in self._look_taps if type(t).passes is not LookTap.passes]
        self._functions = FunctionTap(
            self._trace,
            [
                *(tap for tap in self._look_taps if isinstance(tap, Listener)),
                self._losses,
                self._handwritten,
                self._replay,
                self._nonlinear,
                self._dropped,
                self._muted,
                self._terms,
                self._entries,
                self._classes,
                self._modes,
                self._chains,
                self._recurrent,
                *self._connections.listeners,
            ],
            lambda error: self._contain.fail("the tap on functions", error),
        )
        self._functions.handed = self._connections.handed
        self._forward = ForwardTap(
            self._trace,
            self._functions,
            self._left,
            lambda error: self._contain.fail("the tap on modules", error),
        )
        self._updates = UpdateTap(self._wiring, self._trace)
        self._gradients = GradientTap(self._wiring, set())
        self._kept: deque[tuple[int, Tensor]] = deque(maxlen=LOSSES_KEPT)
        self._look: _Look | None = None
        self._sent: _Look | None = None
        self._ranks = ranks
        self._shared: _Look | None = None
        self._clock = Clock()
        self._glances = Glances(self._wiring, session, schedule)
        self._step = self._epoch = 0
        self._batch_now: Any = None
        self._looks = 0
        self._fruitless = 0
        self._silent: set[str] = set()
        self._idle = 0
        self._stepping = False
        self._handles: list[RemovableHandle] = []
        self._eagerly = ExitStack()

    def _drawing_taps(self, model: Module) -> list[LookTap]:
        """Return the taps that make pictures, and nothing else."""

        def failed(error: Exception) -> None:
            self._contain.fail(StructureTap.name, error)

        return [
            StructureTap(self._trace, model, failed),
            HistogramTap(self._wiring, model),
            FilterTap(model),
        ]

    @property
    def uncounted(self) -> int:
        """Return the optimizer updates that were made and that the trainer has not counted."""
        return self._uncounted.made

    def start(self, step: int, epoch: int) -> None:
        """Measure the state before the first step."""
        if self._resumed:
            self._schedule.resume(step)
        self._measure_start(step, epoch)
        with self._contain("the plan of the run"):
            optimizers = self._wiring.plan()
            self._show(replace(self._plan, step=step, epoch=epoch, optimizers=optimizers))
        for tap in self._working():
            with self._contain(tap.name):
                for obs in tap.start(step, epoch):
                    self._show(obs)

    def _measure_start(self, step: int, epoch: int) -> None:
        if not self._session.wants(RunStart):
            return
        with self._contain("the tap on parameters"):
            ledger = Ledger()
            with torch.no_grad():
                drafts = self._wiring.start(ledger)
            ledger.send()
            ledger.settle()
            parameters = {name: draft.observation(name) for name, draft in drafts.items()}
            symmetric = {n for n, p in parameters.items() if p.identical_units and p.trainable}
            self._gradients = GradientTap(self._wiring, symmetric)
            self._show(
                RunStart(
                    step=step,
                    epoch=epoch,
                    parameters=parameters,
                    resumed=self._resumed,
                    seeded=self._seeded,
                    loader=self._loader,
                )
            )

    def batch_start(self, batch: Any, index: int, step: int, epoch: int, *, updates: bool) -> None:
        """Open the taps if it is time.

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
            with self._contain("the experiments on a copy"):
                self._probes.passes(batch, step, wants=self._session.wants)
        if self._probes is not None and self._probes.due(step):
            wants, contain = self._session.wants, self._contain
            self._experiment(
                lambda probes: probes.run(batch, step, epoch, wants=wants, contain=contain)
            )
        self._clock.start()
        self._step, self._epoch, self._batch_now = step, epoch, batch
        if self._session.wants(Connections) and self._contain.works("the tap on connections"):
            with self._contain("the tap on connections"):
                self._connections.passes(index, epoch)
        if self._session.wants(Batch) and self._contain.works("the tap on the batch"):
            with self._contain("the tap on the batch"):
                self._batch.pass_by(batch, index, step, epoch)
        for tap in self._passed:
            if self._contain.works(tap.name):
                with self._contain(tap.name):
                    tap.passes(step, epoch)
        first = self._looks == 0
        self._idle -= 1
        if not (first or (updates and self._schedule.due(step) and self._idle <= 0)):
            return
        if not (first or self._schedule.whole(step)):
            self._glances.begin(step, epoch)
            return
        self._conclude()
        self._look = _Look(step, epoch, index, first)
        self._looks += 1
        if self._probes is not None:
            with self._contain("the experiments on a copy"):
                wants, draws = self._session.wants, self._session.draws
                self._probes.looks_at(batch, wants=wants, draws=draws)
        with self._contain("opening the taps"):
            self._open(batch)

    def break_off(self) -> None:
        """Forget a look of which the batch never ended, as after a StopIteration."""
        self._glances.break_off()
        if self._look is not None:
            self._close()

    def forward_ends(self) -> None:
        """The loss of an automatic step is there; what comes now belongs to the optimizer."""
        self._pause()

    def before_backward(self, loss: Tensor, value: Tensor) -> None:
        """Take the loss apart that backward starts from, and close the taps on the forward pass.

        Args:
            loss: The loss with its graph.
            value: The same without.
        """
        if self._look and not self._stepping and self._contain.works("the tap on losses"):
            with self._contain("the tap on losses"), self._functions.deaf():
                known = self._terms.totals
                self._losses.backward(loss)
                self._terms.backward(loss, self._losses.nodes)
            if self._contain.works("the tap on connections"):
                with self._contain("the tap on connections"), self._functions.deaf():
                    self._connections.before_backward(self._terms, known)
        if self._look and not self._stepping:
            for tap in self._working():
                with self._contain(tap.name), self._functions.deaf():
                    tap.before_backward(loss)
        self._pause()
        if self._traces and not self._stepping and _is_broken(value):
            self._trace_birth()

    @property
    def _traces(self) -> bool:
        """Tell whether the first value that is not finite is to be traced."""
        wanted = self._probes is not None and self._probes.traces
        return wanted and self._session.wants(NonFiniteBirth)

    def _trace_birth(self) -> None:
        """Find out where NaN comes from, while the weights are still what they were."""
        where = self._batch_now, self._step, self._epoch
        self._experiment(lambda probes: filter(None, [probes.birth(*where)]))

    def _experiment(self, made: Callable[[Probes], Iterable[Observation]]) -> None:
        """Make experiments and show what came of them, while no other thread trains."""
        with together.while_alone() as alone:
            if self._probes is None or not alone:
                return
            with self._contain("the experiments on a copy"):
                for obs in made(self._probes):
                    self._show(obs)

    def _left(self, frame: Frame, args: Any, out: Any) -> None:
        """Tell the taps that a module has run, what it took and what it gave."""
        self._modes.left(frame)
        self._chains.left(frame, out)
        self._losses.criterion(frame, args, out)
        for tap in self._leaving:
            with self._contain(tap.name):
                tap.left(frame, args, out)

    def _pause(self) -> None:
        if self._look:
            self._functions.pause()
            self._forward.pause()
            self._dropped.end()

    def after_backward(self) -> None:
        """Open them again: manual optimization runs forward several times in a batch."""
        if self._look and not self._stepping:
            if self._contain.works("the tap on connections"):
                with self._contain("the tap on connections"), self._functions.deaf():
                    self._connections.after_backward()
            for tap in self._working():
                with self._contain(tap.name), self._functions.deaf():
                    tap.after_backward()
            if self._contain.works("the tap on functions"):
                self._functions.resume()
            self._forward.pause(not self._contain.works("the tap on modules"))

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Measure the gradients that an optimizer is about to use."""
        look = self._look
        if look is None:
            if self._traces and self._gradients.broken(optimizer):
                self._trace_birth()
            if self._session.wants(Clipping) and self._contain.works(self._clipping.name):
                with self._contain(self._clipping.name):
                    self._clipping.unseen_step(optimizer, self._step)
            self._glances.before_step(optimizer)
            return
        if any(known is optimizer for known, _ in look.gradients):
            return  # a closure is evaluated several times in one step
        self._pause()
        self._stepping = True  # a closure may run the model again: those passes are not looked at
        if self._contain.works("the tap on gradients"):
            with self._contain("the tap on gradients"), self._functions.deaf():
                draft = self._gradients.measure(optimizer, look.ledger)
                look.gradients.append((optimizer, draft))
        largest = self._gradients.largest
        if self._traces and largest is not None and _is_broken(largest):
            self._trace_birth()
        if self._contain.works("the tap on updates") and self._session.wants(Updates):
            with self._contain("the tap on updates"), self._functions.deaf():
                self._updates.before(optimizer)
        if self._contain.works("the tap on connections"):
            with self._contain("the tap on connections"), self._functions.deaf():
                self._connections.before_step(optimizer)
        for tap in self._working():
            with self._contain(tap.name), self._functions.deaf():
                tap.before_step(optimizer)

    def batch_end(self, loss: Tensor | None, step: int, *, last: bool = False) -> None:
        """Keep the loss of the batch, if there is one; at a look, close the taps and send.

        Args:
            loss: The loss of the batch.
            step: Optimizer updates made by now.
            last: Whether the epoch ends with it.
        """
        wanted = last and self._session.wants(Connections)
        if wanted and self._contain.works("the tap on connections"):
            with self._contain("the tap on connections"), self._functions.deaf():
                self._connections.epoch_ends()
        if loss is not None:
            self._kept.append((self._step, loss.detach()))
        self._batch_now = None
        look = self._look
        if look is None and self._glances.open:
            self._glances.end(loss)
            return
        if look is None:
            self._clock.stop(looked=False)
            return
        self._close()
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
        with self._contain("sending the numbers of a look"):
            look.losses = self._note_losses(look.ledger)
            self._batch.flush(look.ledger)
            look.ledger.send()
            self._sent = look
        if look.ledger.arrived:
            self._read()
        self._clock.stop(looked=True)

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
        self._close()
        self.validation.close()
        self._read()
        if self._ranks is not None and not (completed or self._ranks.arrived):
            self._ranks.forget()
        self._conclude()
        if self._kept:
            with self._contain("reading the last losses"):
                ledger = Ledger()
                losses = self._note_losses(ledger)
                self._batch.flush(ledger)
                ledger.send()
                ledger.settle()
                self._show(
                    Losses(step=step, epoch=epoch, values=tuple((n, e.value) for n, e in losses))
                )
                self._show(self._batch.rest(step, epoch))
        for tap in self._working():
            with self._contain(tap.name):
                for obs in tap.rest(step, epoch):
                    self._show(obs)
                self._draw(tap, step)
        with self._contain("the last numbers of connections"):
            rest = self._connections.rest(step, epoch)
            if rest is not None:
                self._show(rest)
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

    def _open(self, batch: Any) -> None:
        look = self._look
        if look is None:
            return
        works, wants = self._contain.works, self._session.wants
        self._wiring.refresh()
        self._trace.begin(self._wiring.paths(), self._wiring.parameters)
        if self._ranks is not None:
            with self._talking():
                self._ranks.begin(look.ledger)
        silent = (self._wiring.parameters.get(name) for name in self._silent)
        self._trace.suspects = {id(parameter) for parameter in silent if parameter is not None}
        self._losses.begin(look.ledger, batch, replay=look.first and not self._resumed)
        self._nonlinear.begin(look.ledger)
        self._muted.begin(look.ledger)
        self._terms.begin(look.ledger, wanted=wants(LossTerms))
        self._dropped.begin(look.ledger, wanted=wants(DataFlow) and self._looks <= DATA_FLOW_LOOKS)
        if works("the tap on the batch"):
            with self._contain("the tap on the batch"):
                tensors = self._batch.measure(batch, look.index, look.epoch, look.ledger)
                few = wants(DataFlow) and self._looks <= DATA_FLOW_LOOKS
                self._entries.begin(tensors, look.ledger, columns=few)
        if works("the tap on updates") and (wants(Updates) or wants(Gradients)):
            with self._contain("the tap on updates"):
                look.still = self._updates.still(look.ledger)
        for tap in self._working():
            with self._contain(tap.name):
                tap.begin(look.ledger, batch, look.step)
        self._leaving = [t for t in self._working() if type(t).left is not LookTap.left]
        self._recurrent.begin(look.ledger, wanted=wants(Backward))
        self._modes.begin(wanted=wants(Modes))
        few = wants(DataFlow) and self._looks <= DATA_FLOW_LOOKS
        self._chains.begin(self._model, self._wiring.parameters, wanted=few)
        if works("the tap on connections"):
            with self._contain("the tap on connections"):
                fresh = look.first and not self._resumed
                self._connections.begin(look.ledger, wanted=wants(Connections), fresh=fresh)
        kinds = (Activations, LossCalls, Gradients, Backward, Modes, Connections)
        listening = any(isinstance(tap, Listener) for tap in self._working())
        forward = listening or any(wants(kind) for kind in kinds)
        if works("the tap on modules") and forward:
            self._forward.begin(look.ledger, backward=wants(Backward))
        if works("the tap on functions") and (forward or wants(DataFlow)):
            self._functions.open()
        self._handles = on_steps(
            self._wiring.optimizers,
            self._before_step,
            self._after_step,
            strangers=self._wiring.has_free,
        )
        # Compiled code does not run hooks; eager code for one step recompiles nothing.
        self._eagerly.enter_context(Eagerly())
        if "torch._dynamo" in sys.modules:
            # Said of global hooks on compiled modules; ours count leaf modules only.
            warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when")

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Lightning steps with a closure, and tells us when it has run.
        # The first argument is the optimizer itself.
        if len(args) < 2 and kwargs.get("closure") is None and self._look:
            with self._contain("the tap on updates"):
                if self._wiring.add(optimizer):
                    self.before_optimizer_step(optimizer)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        look = self._look
        if look is None:
            return
        with self._contain("the tap on updates"), self._functions.deaf():
            if self._wiring.add(optimizer):
                look.stepped[id(optimizer)] += 1
                if self._session.wants(Updates) and self._contain.works("the tap on updates"):
                    look.updates.append(self._updates.measure(optimizer, look.ledger))
        if id(optimizer) in look.stepped:
            for tap in self._working():
                with self._contain(tap.name), self._functions.deaf():
                    tap.after_step(optimizer)
        if self._contain.works("the tap on connections"):
            with self._contain("the tap on connections"), self._functions.deaf():
                ours = id(optimizer) in look.stepped
                self._connections.after_step(optimizer, ours=ours)
        self._stepping = False
        self.after_backward()

    def _close(self) -> None:
        look, self._look = self._look, None
        self._stepping = False
        if look is None:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._contain.works("the tap on connections"):
            with self._contain("the tap on connections"), self._functions.deaf():
                self._connections.end()
        for tap in self._working():
            with self._contain(tap.name), self._functions.deaf():
                tap.end()
        with self._contain("the tap on modules"), self._functions.deaf():
            self._forward.end()
        with self._contain("the tap on functions"), self._functions.deaf():
            self._nonlinear.end()
        self._losses.end()
        self._entries.end()
        self._dropped.end()
        self._chains.end()
        self.validation.note(self._classes.take())
        self._terms.end()
        self._functions.close()
        self._eagerly.close()
        look.ran = dict(self._trace.ran)
        used = self._trace.used
        look.used = {n for n, p in self._wiring.parameters.items() if id(p) in used}
        with self._contain("the tap on wiring"):
            look.routed = self._wiring.routed(self._trace)
        if self._trace.suspects:
            found = {n: self._trace.cut_of(p) for n, p in self._wiring.parameters.items()}
            look.cuts = {name: cut for name, cut in found.items() if cut is not None}
        self._trace.clear()

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

    def _share(self, look: _Look) -> None:
        """Start to add up the numbers of a look over all processes."""
        if self._ranks is not None:
            with self._talking():
                drafts = [draft for _, draft in look.gradients]
                mark, cost = self._batch.mark(), self._clock.cost
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
            for obs in self._observations(look):
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

    def _observations(self, look: _Look) -> Iterable[Observation]:
        where: dict[str, int] = {"step": look.step, "epoch": look.epoch}
        values = tuple((step, entry.value) for step, entry in look.losses)
        loss = values[-1][1] if values else math.nan
        loss_finite = not values or math.isfinite(loss)
        still = {name for name, entry in look.still.items() if entry.value == 0.0}
        ends = self._forward.ends()
        gradients = [
            draft.observation(
                look.step,
                look.epoch,
                ran=look.ran,
                used=look.used,
                routed=look.routed,
                ends=ends,
                still=still,
                loss=loss,
                muted=self._muted.off,
                stepped=id(optimizer) in look.stepped,
                cuts=look.cuts,
            )
            for optimizer, draft in look.gradients
        ]
        self._silent = {
            n for g in gradients for n, p in g.parameters.items() if not (p.present or p.ever)
        }
        skipped = bool(gradients) and not any(g.stepped for g in gradients)
        weights = {name: g.weight_finite for obs in gradients for name, g in obs.parameters.items()}
        broken = tuple(
            name for obs in gradients for name, g in obs.parameters.items() if not g.finite
        )
        owners = {owner(name): True for name in weights}
        owners |= {owner(name): False for name, finite in weights.items() if not finite}
        modules = self._forward.modules(owners)
        finite = all(call.finite for call in modules)
        harmful = not loss_finite or (bool(broken) and not skipped)
        if any(not math.isfinite(value) for _, value in values):
            self._batch.search()
        yield self._batch.observation(self._entries, look.step, look.epoch, look.index, harmful)
        yield Activations(
            **where,
            modules=modules,
            nonlinear=self._nonlinear.observations(self._forward.again),
            batch_finite=self._batch.finite,
            harmful=not skipped and (not loss_finite or bool(broken)),
        )
        yield LossCalls(
            **where,
            calls=self._losses.observations(),
            whole=self._losses.whole(loss),
            resumed=self._resumed,
        )
        yield LossTerms(**where, terms=self._terms.observations())
        yield DataFlow(
            **where,
            dropped_norms=self._dropped.observations(),
            linear_pairs=self._chains.observations(),
            bent=self._chains.bent(),
            entries=self._entries.data_entries(),
        )
        yield Losses(
            **where,
            values=values,
            activations_finite=finite,
            broken=tuple(name for name, ok in weights.items() if not ok),
            skipped=skipped,
        )
        yield Backward(
            **where,
            calls=self._forward.backward_calls(),
            recurrent=self._recurrent.observations(),
            loss_finite=loss_finite,
            activations_finite=finite,
            broken=broken,
            skipped=skipped,
        )
        if self._contain.works("the tap on connections"):
            with self._contain("the tap on connections"):
                terms, calls = self._terms.observations(), self._losses.observations()
                yield self._connections.observation(look.step, look.epoch, terms, calls)
        yield from gradients
        for draft in look.updates:
            yield draft.observation(look.step, look.epoch)
        for tap in self._working():
            with self._contain(tap.name):
                yield from tap.observations(look.step, look.epoch)
                self._draw(tap, look.step)
        if gradients:
            trained = {n for obs in gradients for n, g in obs.parameters.items() if g.present}
            parts = self._modes.parts(trained)
            yield Modes(step=look.step, epoch=look.epoch, parts=parts)

    def _working(self) -> list[LookTap]:
        """Return the taps that somebody asks for and that have not failed."""
        wants, works, drawing = self._session.wants, self._contain.works, self._session.draws
        asked = [t for t in self._look_taps if (t.draws and drawing) or any(map(wants, t.kinds))]
        return [tap for tap in asked if works(tap.name)]

    def _draw(self, tap: LookTap, step: int) -> None:
        if self._session.draws:
            for picture in tap.pictures(step):
                self._session.picture(picture)

    def _show(self, obs: Observation) -> None:
        if self._probes is not None:
            self._probes.hear(obs)
        if isinstance(obs, (RunEnd, Losses)) or self._session.wants(type(obs)):
            self._session.observe(obs)


def _is_broken(value: Tensor) -> bool:
    """Tell whether a number is not finite; where it lies on the host, so that nobody waits."""
    values = on_host(value)
    return values is not None and not np.isfinite(values).all()
