"""Glances at the steps between two whole looks."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from lightning_debug.observation import Glance, Gradients, Updates
from lightning_debug.schedule import Schedule
from lightning_debug.session import Session
from lightning_debug.taps.glances import GlanceTap
from lightning_debug.taps.wiring import Wiring


class Glances:
    """Opens the tap on single steps, and shows what it saw.

    Args:
        wiring: Knows which optimizer holds which parameter.
        session: Gets the observations.
        schedule: Told of each glance.
    """

    def __init__(self, wiring: Wiring, session: Session, schedule: Schedule) -> None:
        self._tap = GlanceTap(wiring)
        self._session = session
        self._schedule = schedule
        self._contain = session.contain
        self._at: tuple[int, int] | None = None
        self._sent: tuple[int, int] | None = None

    @property
    def open(self) -> bool:
        """Tell whether one is being made."""
        return self._at is not None

    def begin(self, step: int, epoch: int) -> None:
        """Start one, if anybody cares for gradients and updates."""
        wanted = any(map(self._session.wants, (Glance, Gradients, Updates)))
        if wanted and self._contain.works(GlanceTap.name):
            self._at = step, epoch
            self._tap.begin()

    def before_step(self, optimizer: Optimizer) -> None:
        """Measure what an optimizer is about to use."""
        if self._at is not None and self._contain.works(GlanceTap.name):
            with self._contain(GlanceTap.name):
                self._tap.before_step(optimizer)

    def end(self, loss: Tensor | None) -> None:
        """Measure what has become of the weights."""
        at, self._at = self._at, None
        if at is None or not self._contain.works(GlanceTap.name) or self._tap.fruitless:
            return
        with self._contain(GlanceTap.name):
            self._tap.end(loss)
            self._schedule.glanced(at[0])
            self._sent = at
            if self._tap.arrived:
                self.read()

    def read(self) -> None:
        """Show the numbers of the last one, if they were not shown yet."""
        at, self._sent = self._sent, None
        if at is None:
            return
        with self._contain(GlanceTap.name):
            for obs in self._tap.observations(*at):
                self._session.observe(obs)
            self._session.end_look(*at)

    def break_off(self) -> None:
        """Forget one that has begun."""
        self._at = None
