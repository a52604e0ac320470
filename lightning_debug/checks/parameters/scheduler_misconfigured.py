"""Schedules that the run does not follow as they were meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug import rate_shape as shape
from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Schedules, ScheduleState

BY_STEP = (
    'Write {"scheduler": scheduler, "interval": "step"}, inside of "lr_scheduler": beside it'
    " the interval is ignored."
)
BY_STEP_MANUAL = "Call self.lr_schedulers().step() after each optimizer.step()."
BY_EPOCH = (
    'Write {"scheduler": scheduler, "interval": "epoch"}, or count in updates:'
    " T_max=self.trainer.estimated_stepping_batches."
)
BY_EPOCH_MANUAL = (
    "Call self.lr_schedulers().step() in on_train_epoch_end, or make the schedule for as many"
    " calls as there are updates."
)
IN_UPDATES = "self.trainer.estimated_stepping_batches"
EVER = "Call self.lr_schedulers().step() after optimizer.step(), or in on_train_epoch_end."


@dataclass(kw_only=True)
class SchedulerMisconfigured(Check):
    """A schedule is called too rarely, too often or never, or made for a run of another length.

    Why: Lightning calls a scheduler once an epoch unless it is told otherwise, and in manual
    optimization never. A schedule made for updates then hardly begins, and one made for epochs
    is over after a few updates, or goes up and down all the time. Nothing fails: the run trains
    at a learning rate that nobody chose.

    Silent when: the schedule is constant, cyclic or restarts; it is longer than the run, with no
    sign of what else it was made for (a short run of a long schedule); it rests at its low for
    the last part of the run; the run is a trial (fast_dev_run, overfit_batches), goes on from a
    checkpoint, or stops before the schedule goes wrong.

    Source: Lightning issues 3205, 5631, 6948 and 6825 (scheduler intervals), 1476 (accumulation).

    Args:
        factor: How many times more often than it is called a schedule has to be made to be called.
        tolerance: How near the number of calls that a schedule is made for has to be to what it
            should have been called, to be taken for it.
        low: Share of its peak below which a learning rate is next to nothing.
        early: Share of the run before which it has to be reached to be told.
        warm: Share of its peak that a warm-up has to stay below in the whole run.
        shortest: Calls for a run to be judged by.
    """

    fix = f"Set interval to the unit that the schedule counts in, or make it for {IN_UPDATES}."
    symptom_of = ("monitor-mode-reversed",)

    factor: float = 4.0
    tolerance: float = 0.05
    low: float = 0.01
    early: float = 0.25
    warm: float = 0.2
    shortest: int = 8
    _waiting: bool = field(default=False, init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Return what a plateau that is taken for one has been watching the wrong way."""
        return self.symptom_of if self._waiting else ()

    def on_schedules(self, obs: Schedules) -> Iterator[Finding]:
        """Compare each schedule with the run."""
        if obs.trial:
            return
        for state in obs.schedules:
            told = next(self._faults(obs, state), None)
            if told:
                self._waiting |= state.plateau
                yield told
        for rate in obs.optimizers:
            if obs.batches_seen < 2 * self.shortest:
                continue
            if rate.astray:
                message = (
                    f"{rate.astray} drives another optimizer, which holds the same parameters and"
                    f" is not the one that trains: the learning rate of {rate.optimizer} has been"
                    f" {rate.lr:.3g} since the start."
                )
                fix = "Build one optimizer, give it to the scheduler, and return that one."
                yield self.finding(obs, message, where=rate.optimizer, fix=fix, lr=rate.lr)
            elif rate.lost:
                message = (
                    f"A scheduler was built for {rate.optimizer}, and nobody calls it: the"
                    f" learning rate has been {rate.lr:.3g} since the start."
                )
                fix = (
                    'Return it: {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler,'
                    ' "interval": "step"}}; or call scheduler.step() yourself.'
                )
                yield self.finding(obs, message, where=rate.optimizer, fix=fix, lr=rate.lr)

    def _faults(self, obs: Schedules, state: ScheduleState) -> Iterator[Finding]:
        yield from self._never(obs, state)
        yield from self._rebuilt(obs, state)
        if state.rates and (state.calls or state.planned):
            yield from self._meant_by_step(obs, state)
            yield from self._meant_by_epoch(obs, state)
            yield from self._other_length(obs, state)
            if state.calls:
                yield from self._overrun(obs, state, state.rates[: state.calls])
                yield from self._nothing_left(obs, state, state.rates[: state.calls])
        elif state.history and obs.stage == "end":
            by_epoch = state.plateau and state.interval == "epoch"
            if not by_epoch:
                yield from self._nothing_left(obs, state, state.history)
            if not state.plateau:
                yield from self._overrun(obs, state, state.history)

    # -- is it called at all? ---------------------------------------------------------------

    def _never(self, obs: Schedules, state: ScheduleState) -> Iterator[Finding]:
        beyond = obs.automatic and 0 < obs.batches < state.frequency <= state.by_step
        if beyond and state.interval == "step" and not (obs.limited or state.own):
            message = (
                f"{state.label} is never called: frequency={state.frequency} counts the batches"
                f" of an epoch, and an epoch has {obs.batches}."
            )
            yield self._told(obs, state, message, 'Use a smaller "frequency".')
            return
        moves = state.plateau or not state.rates or shape.changes(state.rates) > 0
        constant = any(r.constant for r in obs.optimizers if r.optimizer == state.optimizer)
        if state.made != 0 or state.late or state.restarts or not moves or not constant:
            return
        half = obs.epochs_seen > max(2, obs.epochs / 2)
        if obs.batches_seen < self.shortest or not (obs.stage == "end" or half):
            return
        updates = obs.batches_seen // max(obs.several, default=1)
        due = updates >= self.shortest if state.interval == "step" else obs.epochs_seen >= 3
        if not obs.automatic:
            reason, fix = "in manual optimization Lightning does not call it", EVER
        elif state.plateau or state.frequency > 1 or not due:
            return
        else:
            reason = "lr_scheduler_step does not call it"
            fix = "Call scheduler.step() in lr_scheduler_step, or remove that method."
        message = (
            f"{state.label} has not been called once in {obs.batches_seen} batches"
            f" ({reason}): the learning rate has not changed."
        )
        yield self._told(obs, state, message, fix)

    def _rebuilt(self, obs: Schedules, state: ScheduleState) -> Iterator[Finding]:
        if state.restarts >= 2:
            message = (
                f"{state.label} was built anew {state.restarts} times while training went on, and"
                " began from the start each time: its schedule does not get on."
            )
            fix = "Build optimizer and scheduler once, in configure_optimizers."
            yield self._told(obs, state, message, fix)

    # -- is it called at the right times? ---------------------------------------------------

    def _meant_by_step(self, obs: Schedules, state: ScheduleState) -> Iterator[Finding]:
        """Tell of a schedule for updates that is called once an epoch."""
        calls, steps = state.calls or state.planned, state.by_step
        rare = state.interval == "epoch" or state.frequency > 1
        if not rare or steps < max(12, 3 * calls):
            return
        most = steps * max(obs.several, default=1)
        top = shape.peak(state.rates)
        made_for = 0
        for length in _lengths(state):
            exact = any(self._near(length, steps * n) for n in (1, *obs.several))
            exact = exact and steps >= 20 and not (obs.limited and length < 100)
            exact = exact and length >= self.factor * calls
            # One that refuses to be called more often is made to be followed to its end.
            strict = state.ends and steps / 2 <= length <= 2 * most and length >= 3 * calls
            huge = length >= max(1000, 50 * calls) and steps / 4 <= length <= 4 * most
            if exact or strict or huge:
                made_for = made_for or length
        run = state.rates[:calls]
        warming = max(run) <= self.warm * max(state.rates) and top < len(state.rates) - 2
        if warming and (max(20, 8 * calls) <= top <= most or top >= max(200, 20 * calls)):
            made_for = made_for or top
        if not made_for:
            return
        unit = "epoch" if state.interval == "epoch" else "update"
        when = f"once an {unit}" if state.frequency == 1 else f"every {state.frequency} {unit}s"
        message = (
            f"{state.label} is called {when}, {_times(calls)} in this run of {steps} updates, but"
            f" it is made for {made_for} calls: {self._way(state)}."
        )
        fix = BY_STEP_MANUAL if state.own else BY_STEP
        if state.interval == "step":
            fix = 'Leave out "frequency".'
        yield self._told(obs, state, message, fix, calls=calls, made_for=made_for)

    def _meant_by_epoch(self, obs: Schedules, state: ScheduleState) -> Iterator[Finding]:
        """Tell of a schedule for epochs that is called at each update."""
        calls, epochs = state.calls or state.planned, state.by_epoch
        run = state.rates[:calls]
        if state.interval != "step" or epochs < 2 or calls < max(16, 4 * epochs) or max(run) <= 0:
            return
        turn, end = shape.rises_again(run), shape.settles(run)
        below = shape.stays_below(run, self.low * 1.01)
        kept = state.rates[epochs - 1] / max(state.rates[:epochs]) if max(state.rates) > 0 else 0.0
        slope = abs(turn - epochs) <= max(1, self.tolerance * epochs)
        steps = shape.changes(run[: below + 1]) <= below / 4
        latest = (0.45 if steps else self.early) * calls
        if turn > 0 and slope:
            what = (
                f"it falls to {run[turn]:.3g} within {turn} updates and climbs back to"
                f" {max(run[turn:]):.3g}, again and again"
            )
        elif state.calls and 0 < below <= latest and kept >= 0.05 and (steps or end <= 2 * epochs):
            what = (
                f"it falls from {max(run):.3g} to less than {self.low:.0%} of that within"
                f" {below} of {calls} updates"
            )
        elif 0.2 * epochs <= end <= min(epochs, 0.1 * calls) and run[-1] <= 0.2 * max(run):
            what = (
                f"it falls from {max(run):.3g} to {run[-1]:.3g} within {end} of {calls} updates"
                " and stays there"
            )
        else:
            return
        message = (
            f"{state.label} is called at every update, and takes the learning rate along as if"
            f" updates were epochs: {what}; called once an epoch it would end at"
            f" {state.rates[epochs - 1]:.3g} after {epochs} epochs."
        )
        fix = BY_EPOCH_MANUAL if state.own else BY_EPOCH
        yield self._told(obs, state, message, fix, calls=calls, epochs=epochs)

    # -- is it made for this run? -----------------------------------------------------------

    def _other_length(self, obs: Schedules, state: ScheduleState) -> Iterator[Finding]:
        """Tell of a schedule that leaves out how many batches or processes share an update."""
        calls = state.calls or state.planned
        run = state.rates[:calls]
        if state.interval != "step" or calls < self.shortest or max(state.rates) <= 0:
            return
        unfinished = run[-1] >= self.warm * max(state.rates) or max(run) < 0.5 * max(state.rates)
        end = shape.settles(run)
        length = len(state.rates) - 1
        smoke = obs.limited or obs.cut or not state.ends
        if not smoke and 1.9 * calls <= length <= 16 * calls and unfinished:
            message = (
                f"{state.label} is made for {length} calls, and this run makes {calls}:"
                f" {self._way(state)}."
            )
            fix = f"Set total_steps={IN_UPDATES}."
            yield self._told(obs, state, message, fix, calls=calls, made_for=length)
            return
        # In manual optimization nobody says how many batches share an update; it can be seen.
        shared = {round(state.by_step / calls)} - {0, 1} if state.own else set(obs.several)
        for many in sorted(shared):
            long = [n for n in _lengths(state) if self._near(n, calls * many)]
            if long and unfinished:
                way = self._way(state, "It")
                message = (
                    f"{state.label} is made for {long[0]} calls, {many} times the {calls} updates"
                    f" of this run, where {many} batches share one update. {way}."
                )
            elif (
                state.calls
                and end > 0
                and self._near(end * many, calls)
                and run[-1] <= self.low * max(run)
            ):
                message = (
                    f"{state.label} is over after {end} of the {calls} updates of this run: the"
                    f" learning rate is {run[-1]:.3g} from there on."
                )
            else:
                continue
            fix = f"Make it for {IN_UPDATES}, which counts accumulation and devices."
            yield self._told(obs, state, message, fix, calls=calls)
            return

    def _overrun(
        self, obs: Schedules, state: ScheduleState, run: tuple[float, ...]
    ) -> Iterator[Finding]:
        """Tell of a schedule that has come to its end and goes back up."""
        turn = shape.rises_again(run)
        if turn <= 0:
            return
        epoch = state.by_step / max(1, state.by_epoch)
        within = state.interval == "step" and 2 * turn < epoch
        # Many rounds are meant to be many, unless the class is made for one.
        if len(run) / turn >= 4 and not within and state.kind != "CosineAnnealingLR":
            return
        unit, each = _unit(state)
        message = (
            f"{state.label} has come to its end, {run[turn]:.3g}, after {turn * each} of the"
            f" {len(run) * each} {unit} of this run, and the learning rate climbs back to"
            f" {max(run[turn:]):.3g}."
        )
        long = IN_UPDATES if state.interval == "step" else "self.trainer.max_epochs"
        yield self._told(obs, state, message, f"Set T_max={long}.", turn=turn, calls=len(run))

    def _nothing_left(
        self, obs: Schedules, state: ScheduleState, run: tuple[float, ...]
    ) -> Iterator[Finding]:
        """Tell of a learning rate that is next to nothing for most of the run."""
        calls, top = len(run), max(run)
        # The number of calls may be off by a few, and what follows the last update does not matter.
        first = next((i for i, rate in enumerate(run) if rate < -1e-6 * abs(top)), calls)
        if first < 0.95 * calls - 1:
            message = (
                f"{state.label} makes the learning rate negative, {min(run):.3g}, from call"
                f" {first} of {calls} on: updates then climb the loss."
            )
            fix = "Clamp the factor: max(0.0, 1 - step / total)."
            yield self._told(obs, state, message, fix, lr=min(run))
            return
        if calls < self.shortest and not (top <= 0 and calls > 1):
            return
        if top <= 0:
            message = f"{state.label} keeps the learning rate at 0 in the whole run."
            fix = "Look at its factor: integer division (step // warmup) gives 0."
            yield self._told(obs, state, message, fix, lr=top)
            return
        share = self.low * (1.01 if state.interval == "step" else 0.101)
        early, gone = shape.stays_below(run, share), shape.stays_below(run, self.low**2)
        if 0 < early <= self.early * calls:
            left = early
        elif 0 < gone <= (2.0 if state.interval == "epoch" else 1.4) * self.early * calls:
            left = gone
        else:
            return
        unit, each = _unit(state)
        message = (
            f"{state.label} takes the learning rate from {top:.3g} to {run[left]:.3g} within"
            f" {left * each} of the {calls * each} {unit} of this run, and it stays there or falls:"
            f" for the remaining {(calls - left) * each} next to nothing is learned."
        )
        fix = f"Make it longer, or decay less: total_steps={IN_UPDATES}."
        if state.plateau:
            fix = 'Write "interval": "epoch", or a patience that is longer than an epoch.'
        yield self._told(obs, state, message, fix, lr=run[-1], calls=calls)

    # -- words ------------------------------------------------------------------------------

    def _near(self, length: float, wanted: float) -> bool:
        return abs(length - wanted) <= max(1.0, self.tolerance * wanted)

    def _way(self, state: ScheduleState, start: str = "it") -> str:
        """Return what the run sees of a schedule that is longer than the run."""
        run, most = state.rates[: state.calls or state.planned], max(state.rates)
        if max(run) < 0.5 * most:
            top = f"{max(run):.3g}; its peak is {most:.3g}"
            return f"{start} never takes the learning rate above {top}"
        return f"{start} takes the learning rate from {run[0]:.3g} to {run[-1]:.3g} only"

    def _told(
        self,
        obs: Schedules,
        state: ScheduleState,
        message: str,
        fix: str,
        **evidence: float | str,
    ) -> Finding:
        return self.finding(
            obs,
            message,
            where=state.label,
            fix=fix,
            patience=0,
            severity=None,
            interval=state.interval or "unknown",
            optimizer=state.optimizer,
            **evidence,
        )


def _lengths(state: ScheduleState) -> list[int]:
    """Return the numbers of calls that a schedule may have been made for."""
    ends = len(state.rates) - 1 if state.ends else -1
    found = (state.horizon, ends, shape.settles(state.rates), shape.low(state.rates))
    return [length for length in found if length > 1]


def _unit(state: ScheduleState) -> tuple[str, int]:
    """Return what the rates of a scheduler are counted in, and how many lie between two."""
    if not state.rates:
        return "batches", state.stride
    return ("epochs" if state.interval == "epoch" else "updates"), 1


def _times(calls: int) -> str:
    return "once" if calls == 1 else f"{calls} times"
