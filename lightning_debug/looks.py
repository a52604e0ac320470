"""Looks at single steps: all taps are open for one batch, and tell what they saw."""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_debug.experiments.mode_gap import ModeGapTap
from lightning_debug.experiments.rehearsal import rehearse
from lightning_debug.observation import (
    Activations,
    Backward,
    Batch,
    Clipping,
    Connections,
    DataFlow,
    Gradients,
    LossCalls,
    Losses,
    LossTerms,
    Modes,
    Observation,
    ParameterStart,
    Plan,
    Threshold,
    Updates,
    owner,
)
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
from lightning_debug.taps.updates import UpdateDraft, UpdateTap
from lightning_debug.taps.wiring import Wiring

DATA_FLOW_LOOKS = 10


@dataclass
class Look:
    """One look: where in the run it is, and the drafts of what was seen.

    Attributes:
        step: Optimizer updates made before it.
        epoch: Epoch, counted from 0.
        index: Number of the batch in the epoch.
        first: Whether it is the first of the run.
        ledger: The numbers that go to the host together.
        losses: Those since the look before, with their steps.
        gradients: Of each optimizer.
        updates: One for each step that was made.
        stepped: How many steps each optimizer made, by its id.
        still: Changes of parameters that no optimizer steps, since the look before.
        ran: Position of the first run of each module, by path.
        used: Names of parameters that were handed to a function.
        routed: Paths of modules that stood idle while a sibling ran.
        cuts: What ended the graph of parameters that lacked a gradient at the look before.
        thresholds: How classes were made of a prediction.
    """

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
    thresholds: tuple[Threshold, ...] = ()


class Looks:
    """Opens the taps on a batch, follows it through backward and step, and closes them.

    A tap that fails is left out from then on; the others go on.

    Args:
        model: The module that is trained.
        wiring: Knows its parameters and its optimizers.
        session: Says what is asked for.
        plan: What the run is set up to do.
        steps: Called before a step of which Lightning does not tell.
        resumed: Whether training goes on from a checkpoint.
        ties: Names of parameters that were one when the trainer got the model.
        copies: Whether experiments on a copy of the model are made.
        scaler: The trainer's gradient scaler, if it has one.
        course: The schedulers, and what bears on them.
        probabilities: Knows what validation before training has changed.

    Attributes:
        batch: The tap on the batch, which keeps what looks have seen of the data.
        norms: The tap on batch norms, which validation needs as well.
        count: How many looks there were.
    """

    def __init__(
        self,
        model: Module,
        wiring: Wiring,
        session: Session,
        plan: Plan,
        steps: Callable[[Optimizer], None],
        *,
        resumed: bool,
        ties: Iterable[tuple[str, ...]],
        copies: bool,
        scaler: object,
        course: Course,
        probabilities: Probabilities,
    ) -> None:
        self._model = model
        self._wiring = wiring
        self._session = session
        self._contain = session.contain
        self._steps = steps
        self._resumed = resumed
        self.count = 0
        self._look: Look | None = None
        self._stepping = False
        self._silent: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._eagerly = ExitStack()

        self._trace = trace = Trace({})
        self.batch = BatchTap()
        self.norms = BatchNormTap(trace, model)
        self._classes = ThresholdTap(trace, "training_step")
        self._handwritten = HandwrittenTap(trace)
        self._replay = ReplayTap()
        self._losses = LossTap(trace, self._handwritten, self._replay)
        self._entries = EntryTap(trace)
        self._losses.told = self._entries.compared
        self._nonlinear = NonlinearTap(trace)
        self._dropped = DroppedNormTap(trace, model)
        self._muted = MutedTap()
        self._terms = TermTap(trace)
        self._modes = ModeTap(trace, model, mode=False)
        self._chains = ChainTap(trace)
        self._recurrent = RecurrentTap(trace)
        self._connections = ConnectionTap(trace, model, wiring, ties)
        self._clipping = ClippingTap(wiring)
        self._taps: list[LookTap] = [
            ScheduleTap(model, wiring, plan, course, rehearse, resumed=resumed),
            self._clipping,
            SlopeTap(wiring),
            PrecisionTap(wiring, model, scaler),
            self.norms,
            DropoutTap(trace, probabilities),
            *([ModeGapTap(model, wiring.optimizers, plan.updates)] if copies else []),
            KeptGraphTap(model),
            *(self._drawing_taps(model) if session.draws else []),
        ]
        # Between looks only those are told of a batch that do something about it.
        self._passed = [tap for tap in self._taps if type(tap).passes is not LookTap.passes]
        self._leaving: list[LookTap] = []
        self._functions = FunctionTap(
            trace,
            [
                *(tap for tap in self._taps if isinstance(tap, Listener)),
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
            trace,
            self._functions,
            self._left,
            lambda error: self._contain.fail("the tap on modules", error),
        )
        self._updates = UpdateTap(wiring, trace)
        self._gradients = GradientTap(wiring)

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
    def open(self) -> bool:
        """Tell whether one is being made."""
        return self._look is not None

    @property
    def stepping(self) -> bool:
        """Tell whether an optimizer is making a step; its closure may run the model again."""
        return self._stepping

    def initial(self) -> dict[str, ParameterStart]:
        """Return the numbers of the parameters before the first step, by name."""
        ledger = Ledger()
        with torch.no_grad():
            drafts = self._wiring.start(ledger)
        ledger.send()
        ledger.settle()
        parameters = {name: draft.observation(name) for name, draft in drafts.items()}
        alike = {n for n, p in parameters.items() if p.identical_units and p.trainable}
        self._gradients.symmetric = alike
        return parameters

    def start(self, step: int, epoch: int) -> Iterator[Observation]:
        """Return what is known before the first step."""
        for tap in self._working():
            with self._contain(tap.name):
                yield from tap.start(step, epoch)

    def passes(self, batch: Any, index: int, step: int, epoch: int) -> None:
        """A batch starts, with a look or without; reads plain numbers and no tensor."""
        wants, works = self._session.wants, self._contain.works
        if wants(Connections) and works("the tap on connections"):
            with self._contain("the tap on connections"):
                self._connections.passes(index, epoch)
        if wants(Batch) and works("the tap on the batch"):
            with self._contain("the tap on the batch"):
                self.batch.pass_by(batch, index, step, epoch)
        for tap in self._passed:
            if works(tap.name):
                with self._contain(tap.name):
                    tap.passes(step, epoch)

    def begin(self, look: Look, batch: Any) -> None:
        """Open the taps on a batch."""
        self._look = look
        self.count += 1
        with self._contain("opening the taps"):
            self._open(look, batch)

    def _open(self, look: Look, batch: Any) -> None:
        works, wants = self._contain.works, self._session.wants
        flows = wants(DataFlow) and self.count <= DATA_FLOW_LOOKS
        fresh = look.first and not self._resumed
        self._wiring.refresh()
        self._trace.begin(self._wiring.paths(), self._wiring.parameters)
        silent = (self._wiring.parameters.get(name) for name in self._silent)
        self._trace.suspects = {id(parameter) for parameter in silent if parameter is not None}
        self._losses.begin(look.ledger, batch, replay=fresh)
        self._nonlinear.begin(look.ledger)
        self._muted.begin(look.ledger)
        automatic = getattr(self._model, "automatic_optimization", True)
        self._terms.begin(look.ledger, wanted=wants(LossTerms), batch=batch if automatic else None)
        self._dropped.begin(look.ledger, wanted=flows)
        if works("the tap on the batch"):
            with self._contain("the tap on the batch"):
                tensors = self.batch.measure(batch, look.index, look.epoch, look.ledger)
                self._entries.begin(tensors, look.ledger, columns=flows)
        if works("the tap on updates") and (wants(Updates) or wants(Gradients)):
            with self._contain("the tap on updates"):
                look.still = self._updates.still(look.ledger)
        for tap in self._working():
            with self._contain(tap.name):
                tap.begin(look.ledger, batch, look.step)
        self._leaving = [t for t in self._working() if type(t).left is not LookTap.left]
        self._recurrent.begin(look.ledger, wanted=wants(Backward))
        self._modes.begin(wanted=wants(Modes))
        self._chains.begin(self._model, self._wiring.parameters, wanted=flows)
        if works("the tap on connections"):
            with self._contain("the tap on connections"):
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
            self._hear_step,
            self._stepped,
            strangers=self._wiring.has_free,
        )
        # Compiled code does not run hooks; eager code for one step recompiles nothing.
        self._eagerly.enter_context(Eagerly())
        if "torch._dynamo" in sys.modules:
            # Said of global hooks on compiled modules; ours count leaf modules only.
            warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when")

    def pause(self) -> None:
        """Close the taps on the forward pass for a while."""
        if self._look is not None:
            self._functions.pause()
            self._forward.pause()
            self._dropped.end()

    def before_backward(self, loss: Tensor) -> None:
        """Take the loss apart that backward starts from, and pause."""
        if self._look is not None and not self._stepping:
            known = self._terms.totals
            self._quietly("the tap on losses", lambda: self._take_apart(loss))
            self._quietly(
                "the tap on connections",
                lambda: self._connections.before_backward(self._terms, known),
            )
            self._tell(lambda tap: tap.before_backward(loss))
        self.pause()

    def after_backward(self) -> None:
        """Go on: manual optimization runs forward several times in a batch."""
        if self._look is None or self._stepping:
            return
        self._quietly("the tap on connections", self._connections.after_backward)
        self._tell(lambda tap: tap.after_backward())
        if self._contain.works("the tap on functions"):
            self._functions.resume()
        self._forward.pause(not self._contain.works("the tap on modules"))

    def before_step(self, optimizer: Optimizer) -> bool:
        """Measure the gradients that an optimizer is about to use.

        Returns:
            Whether one of them is known not to be finite.
        """
        look = self._look
        if look is None or any(known is optimizer for known, _ in look.gradients):
            return False  # a closure is evaluated several times in one step
        self.pause()
        self._stepping = True
        self._quietly("the tap on gradients", lambda: self._measure_gradients(look, optimizer))
        if self._session.wants(Updates):
            self._quietly("the tap on updates", lambda: self._updates.before(optimizer))
        self._quietly("the tap on connections", lambda: self._connections.before_step(optimizer))
        self._tell(lambda tap: tap.before_step(optimizer))
        largest = self._gradients.largest
        return largest is not None and is_broken(largest)

    def broken(self, optimizer: Optimizer) -> bool:
        """Tell, where there is no look, whether NaN has come back to an optimizer's parameters."""
        return self._gradients.broken(optimizer)

    def unseen_step(self, optimizer: Optimizer, step: int) -> None:
        """An optimizer is about to step where there is no look; reads no tensor."""
        if self._session.wants(Clipping) and self._contain.works(self._clipping.name):
            with self._contain(self._clipping.name):
                self._clipping.unseen_step(optimizer, step)

    def epoch_ends(self) -> None:
        """The last batch of an epoch is over, with a look or without."""
        if self._session.wants(Connections):
            self._quietly("the tap on connections", self._connections.epoch_ends)

    def end(self) -> Look | None:
        """Close the taps, whatever state they are in; returns the look, if there was one."""
        look, self._look = self._look, None
        self._stepping = False
        if look is None:
            return None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._quietly("the tap on connections", self._connections.end)
        self._tell(lambda tap: tap.end())
        with self._contain("the tap on modules"), self._functions.deaf():
            self._forward.end()
        with self._contain("the tap on functions"), self._functions.deaf():
            self._nonlinear.end()
        self._losses.end()
        self._entries.end()
        self._dropped.end()
        self._chains.end()
        self._terms.end()
        self._functions.close()
        self._eagerly.close()
        look.thresholds = self._classes.take()
        look.ran = dict(self._trace.ran)
        used = self._trace.used
        look.used = {n for n, p in self._wiring.parameters.items() if id(p) in used}
        with self._contain("the tap on wiring"):
            look.routed = self._wiring.routed(self._trace)
        if self._trace.suspects:
            found = {n: self._trace.cut_of(p) for n, p in self._wiring.parameters.items()}
            look.cuts = {name: cut for name, cut in found.items() if cut is not None}
        self._trace.clear()
        return look

    def observations(self, look: Look) -> Iterator[Observation]:
        """Return what a look has seen, once its numbers have arrived."""
        where: dict[str, int] = {"step": look.step, "epoch": look.epoch}
        values = tuple((step, entry.value) for step, entry in look.losses)
        loss = values[-1][1] if values else math.nan
        loss_finite = not values or math.isfinite(loss)
        gradients = self._gradients_of(look, loss)
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
            self.batch.search()
        yield self.batch.observation(self._entries, look.step, look.epoch, look.index, harmful)
        yield Activations(
            **where,
            modules=modules,
            nonlinear=self._nonlinear.observations(self._forward.again),
            batch_finite=self.batch.finite,
            harmful=not skipped and (not loss_finite or bool(broken)),
        )
        calls, terms = self._losses.observations(), self._terms.observations()
        yield LossCalls(**where, calls=calls, whole=self._losses.whole(loss), resumed=self._resumed)
        yield LossTerms(**where, terms=terms)
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

    def rest(self, step: int, epoch: int) -> Iterator[Observation]:
        """Return what no look has shown yet, at the end of the run."""
        for tap in self._working():
            with self._contain(tap.name):
                yield from tap.rest(step, epoch)
                self._draw(tap, step)
        with self._contain("the last numbers of connections"):
            rest = self._connections.rest(step, epoch)
            if rest is not None:
                yield rest

    def _left(self, frame: Frame, args: Any, out: Any) -> None:
        """Tell the taps that a module has run, what it took and what it gave."""
        self._modes.left(frame)
        self._chains.left(frame, out)
        self._losses.criterion(frame, args, out)
        for tap in self._leaving:
            with self._contain(tap.name):
                tap.left(frame, args, out)

    def _take_apart(self, loss: Tensor) -> None:
        self._losses.backward(loss)
        self._terms.backward(loss, self._losses.nodes)

    def _measure_gradients(self, look: Look, optimizer: Optimizer) -> None:
        look.gradients.append((optimizer, self._gradients.measure(optimizer, look.ledger)))

    def _gradients_of(self, look: Look, loss: float) -> list[Gradients]:
        still = {name for name, entry in look.still.items() if entry.value == 0.0}
        ends = self._forward.ends()
        return [
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

    def _hear_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Lightning steps with a closure, and tells us when it has run.
        # The first argument is the optimizer itself.
        if len(args) < 2 and kwargs.get("closure") is None and self._look is not None:
            with self._contain("the tap on updates"):
                if self._wiring.add(optimizer):
                    self._steps(optimizer)

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        look = self._look
        if look is None:
            return
        with self._contain("the tap on updates"), self._functions.deaf():
            if self._wiring.add(optimizer):
                look.stepped[id(optimizer)] += 1
                if self._session.wants(Updates) and self._contain.works("the tap on updates"):
                    look.updates.append(self._updates.measure(optimizer, look.ledger))
        ours = id(optimizer) in look.stepped
        if ours:
            self._tell(lambda tap: tap.after_step(optimizer))
        self._quietly(
            "the tap on connections", lambda: self._connections.after_step(optimizer, ours=ours)
        )
        self._stepping = False
        self.after_backward()

    def _working(self) -> list[LookTap]:
        """Return the taps that somebody asks for and that have not failed."""
        wants, works, drawing = self._session.wants, self._contain.works, self._session.draws
        asked = [t for t in self._taps if (t.draws and drawing) or any(map(wants, t.kinds))]
        return [tap for tap in asked if works(tap.name)]

    def _tell(self, call: Callable[[LookTap], None]) -> None:
        """Tell the working taps something, unheard by the tap on functions."""
        for tap in self._working():
            with self._contain(tap.name), self._functions.deaf():
                call(tap)

    def _quietly(self, part: str, call: Callable[[], None]) -> None:
        """Run a part of ours that has not failed, unheard by the tap on functions."""
        if self._contain.works(part):
            with self._contain(part), self._functions.deaf():
                call()

    def _draw(self, tap: LookTap, step: int) -> None:
        if self._session.draws:
            for picture in tap.pictures(step):
                self._session.picture(picture)


def is_broken(value: Tensor) -> bool:
    """Tell whether a number is not finite; where it lies on the host, so that nobody waits."""
    values = on_host(value)
    return values is not None and not np.isfinite(values).all()
