"""Observations to checks, findings to sinks: what is told, when, and under which cause."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_debug import layers, scalars
from lightning_debug.check import BREAKS_ALL, Check, merge
from lightning_debug.containment import Containment
from lightning_debug.experiment import Experiment
from lightning_debug.finding import Finding, Severity, worst_first
from lightning_debug.look import Look
from lightning_debug.observation import KINDS, Losses, Observation, RunEnd, Validation, hook
from lightning_debug.picture import Picture
from lightning_debug.registry import matches
from lightning_debug.resumption import Earlier, packed
from lightning_debug.sinks.sink import RunInfo, RunState, Sink

SHORTEST_RUN = 6
METHODS = {kind: hook(kind) for kind in KINDS}


class Session:
    """One run: shows each observation to the checks that ask for its kind.

    A check answers about one look. The session keeps the streaks: a finding is told once, after
    the check's patience of looks in a row, or when a run ends of which every look has seen it;
    when it goes away and comes back, it is told again.
    A finding whose cause is known as well is filed under that cause.

    Args:
        checks: Copied, so that an instance used for two runs starts afresh.
        sinks: Where findings and numbers go.
        select, ignore: ``name``, ``section`` or either with ``:place-glob``.
        draws: Whether pictures are wanted, where a sink can show them.
        experiments: Returns those that were made so far.
        others: Returns what other processes have found, with their ranks, once each.
    """

    def __init__(
        self,
        checks: Iterable[Check],
        sinks: Iterable[Sink] = (),
        *,
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
        contain: Containment | None = None,
        draws: bool = False,
        experiments: Callable[[Session], Sequence[Experiment]] = lambda session: (),
        others: Callable[[], Iterable[tuple[int, Finding]]] = tuple,
    ) -> None:
        self.contain = contain or Containment()
        self._checks = [copy.deepcopy(check) for check in checks]
        self._asking: dict[type[Observation], list[Check]] = {
            kind: [check for check in self._checks if _asks(check, kind)] for kind in KINDS
        }
        self._sinks = list(sinks)
        self._select = tuple(select)
        self._ignore = tuple(ignore)
        self._streaks: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._active: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._told: dict[str, Finding] = {}
        self._looks: Counter[tuple[str, str]] = Counter()
        self._unripe: dict[tuple[str, str], dict[str, Finding]] = {}
        self._ripe: dict[str, dict[str, Finding]] = defaultdict(dict)
        self._scalars: dict[str, float] = {}
        self._layers: dict[str, dict[str, float]] = {}
        self._losses: list[tuple[int, float]] = []
        self._shown: Counter[str] = Counter()
        self._observed: Counter[str] = Counter()
        self._ended_looks = 0
        self._draws = draws
        self._experiments = experiments
        self._others = others
        self._earlier = Earlier()
        self.closed = False

    @property
    def findings(self) -> list[Finding]:
        """Return what was told so far: worst first, causes above their symptoms."""
        return worst_first(self._told.values())

    def wants(self, kind: type[Observation]) -> bool:
        """Tell whether any working check asks for this kind; if not, do not measure it."""
        asking = self._asking[kind]
        return bool(asking) and (not self.contain.failures or any(map(self._works, asking)))

    @property
    def draws(self) -> bool:
        """Tell whether pictures are wanted; if not, do not make them."""
        return self._draws and any(sink.draws and self._receives(sink) for sink in self._sinks)

    def resume(self, earlier: Earlier) -> None:
        """Go on with a run: what was told before keeps the step at which it was first seen."""
        self._earlier = earlier

    def packed(self) -> dict[str, Any]:
        """Return what the run that goes on from here is to know; also of what came before."""
        told = worst_first((dict(self._earlier.findings) | self._told).values())
        return packed(told, self._earlier.looks + self._ended_looks)

    def found(self, kind: type[Observation]) -> tuple[str, ...]:
        """Return the names of the findings that were told by checks that ask for this kind."""
        asking = self._asking.get(kind, ())
        return tuple(check.name() for check in asking if check.name() in self._told)

    def start(self, run: RunInfo) -> None:
        """Open the sinks."""
        self._each("start", run)

    def record(self, part: Mapping[str, Any]) -> None:
        """Tell the sinks more of what runs."""
        self._each("record", part)

    def observe(self, obs: Observation) -> None:
        """Show an observation to the checks, and tell what has become worth telling."""
        with self.contain("scalars"):
            numbers = scalars.of(obs)
            if isinstance(obs, Validation):  # between two looks: at its own step
                if numbers:
                    self._each("look", Look(step=obs.step, epoch=obs.epoch, scalars=numbers))
            else:
                self._scalars.update(numbers)
            for metric, values in layers.of(obs).items():
                self._layers.setdefault(metric, {}).update(values)
            if isinstance(obs, Losses):
                self._losses.extend(obs.values)
        self._observed[f"{type(obs).__name__} {obs.stream}".rstrip()] += 1
        for check in self._asking[type(obs)]:
            if self._works(check):
                self._shown[check.name()] += 1
                with self.contain(f"check {check.name()}"):
                    self._judge(check, obs)
        if isinstance(obs, RunEnd) and obs.completed:
            with self.contain("the end of the session"):
                self._tell_of_short_run()

    def _hear_others(self) -> None:
        with self.contain("the findings of other processes"):
            for rank, finding in self._others():
                self._hear(finding, rank)

    def _hear(self, finding: Finding, rank: int) -> None:
        """Tell what another process has found and this one has not, or only later."""
        check = next((c for c in self._checks if c.name() == finding.name), None)
        if check is None:
            return
        known = self._ripe[finding.name]
        news = {
            place: replace(
                finding,
                where=place,
                places=(),
                message=f"On rank {rank}: {finding.message}",
                evidence={**finding.evidence, "rank": str(rank)},
                caused_by="",
            )
            for place in finding.places
            if place not in known or finding.step < known[place].step
        }
        if news:
            known.update(news)
            # What another process saw first is where it comes from, not a symptom.
            after = [c for c in self._checks if finding.name in c.causes()]
            told = [self._told[c.name()] for c in after if c.name() in self._told]
            root = any(symptom.step >= finding.step for symptom in told)
            self._tell(check, list(known.values()), root=root)

    def picture(self, picture: Picture) -> None:
        """Hand a picture to the sinks."""
        for sink in self._sinks:
            if sink.draws:
                self._to(sink, "picture", picture)

    def end_look(self, step: int, epoch: int) -> None:
        """Hand the numbers of this look to the sinks; hear what other processes have found."""
        self._hear_others()
        if self._scalars:
            counts = Counter(str(f.severity) for f in self._told.values() if not f.caused_by)
            self._scalars |= {f"findings/{word}": float(n) for word, n in counts.items()}
            self._hand_over(step, epoch)
            self._ended_looks += 1
            if self._ended_looks.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...
                self._stands(step, epoch, {})

    def close(
        self,
        status: str = "completed",
        *,
        step: int = 0,
        epoch: int = 0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Close the sinks, and tell them what was logged last."""
        self._hear_others()
        self._hear_others()  # those that would have waited for another look
        self.closed = True
        if self._losses:
            self._scalars, self._layers = {}, {}  # of no whole look
            self._hand_over(step, epoch)
        self._stands(step, epoch, metrics or {})
        self._each("close", self.findings, status=status, failures=self.contain.failures)

    def _hand_over(self, step: int, epoch: int) -> None:
        look = Look(
            step=step,
            epoch=epoch,
            scalars=self._scalars,
            layers=self._layers,
            losses=tuple(self._losses),
        )
        self._scalars, self._layers, self._losses = {}, {}, []
        self._each("look", look)

    def _stands(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        with self.contain("the state of the run"):
            state = RunState(
                step=step,
                epoch=epoch,
                looked={check.name(): self._shown[check.name()] for check in self._checks},
                observed=dict(self._observed),
                experiments=tuple(self._experiments(self)),
                metrics=metrics,
            )
            self._each("state", state)

    def _tell_of_short_run(self) -> None:
        """Tell what every look of the run has seen, though it ended before patience did."""
        for check in self._checks:
            whole = {
                place: finding
                for key, findings in self._unripe.items()
                for place, finding in findings.items()
                if key[0] == check.name()
                and finding.patience <= check.patience
                and self._streaks[key][place] == self._looks[key] >= SHORTEST_RUN
            }
            if whole:
                self._ripe[check.name()].update(whole)
                self._tell(check, list(self._ripe[check.name()].values()))

    def _works(self, check: Check) -> bool:
        return self.contain.works(f"check {check.name()}")

    def _judge(self, check: Check, obs: Observation) -> None:
        method = METHODS[type(obs)]
        seen = {f.where: f for f in getattr(check, method)(obs) if self._admits(check, f)}
        key = check.name(), method + obs.stream
        streak, active = self._streaks[key], self._active[key]
        self._looks[key] += 1
        if not seen and not streak:  # as at most looks
            return
        for gone in streak.keys() - seen.keys():
            del streak[gone]
        active.intersection_update(seen)
        streak.update(seen.keys())
        ripe = {p: f for p, f in seen.items() if streak[p] >= (f.patience or check.patience)}
        self._unripe[key] = {p: f for p, f in seen.items() if p not in ripe}
        if ripe.keys() - active:
            active.update(ripe)
            self._ripe[check.name()].update(ripe)
            self._tell(check, list(self._ripe[check.name()].values()))
        elif ripe:
            told = self._told[check.name()]
            self._told[check.name()] = replace(told, count=told.count + 1)

    def _admits(self, check: Check, finding: Finding) -> bool:
        section = check.section()
        if any(matches(pattern, finding, section) for pattern in self._ignore):
            return False
        mine = [p for p in self._select if p.partition(":")[0] in (finding.name, section)]
        return not mine or any(matches(pattern, finding, section) for pattern in mine)

    def _tell(self, check: Check, places: list[Finding], *, root: bool = False) -> None:
        before = self._told.get(check.name())
        # The first place told stays in front, unless a worse one has come.
        places.sort(key=lambda finding: -finding.severity.rank)
        finding = merge(places)
        seen = before or self._earlier.findings.get(finding.name)
        if seen:
            first = min(seen, finding, key=lambda f: f.step)
            finding = replace(finding, step=first.step, epoch=first.epoch, count=seen.count + 1)
        # What has become an alarm since has its causes and symptoms looked for anew.
        worse = root or before is None or before.severity < finding.severity
        known = before.caused_by if before and not root else ""
        finding = replace(finding, caused_by=known)
        if worse and not (known or root):
            finding = replace(finding, caused_by=self._cause(check))
        self._told[finding.name] = finding
        self._emit(finding, new=before is None)
        if worse:
            self._refile(finding)

    def _cause(self, check: Check) -> str:
        """Return the told root cause of a check's finding, or nothing."""
        after = [other for other in BREAKS_ALL if not self._explains(check, other)]
        for name in (*check.causes(), *(after if check.symptom_of else ())):
            cause = self._told.get(name)
            if cause and cause.severity >= Severity.WARNING:
                return cause.caused_by or cause.name
        return ""

    def _explains(self, cause: Check, name: str) -> bool:
        """Tell whether the finding with this name is a symptom of a check's finding."""
        return any(c.name() == name and cause.name() in c.causes() for c in self._checks)

    def _refile(self, cause: Finding) -> None:
        """File what was told before its cause under it."""
        for check in self._checks:
            symptom = self._told.get(check.name())
            explained = symptom and not symptom.caused_by and cause.name in check.causes()
            if symptom and explained and symptom.name != cause.caused_by:
                root = cause.caused_by or cause.name
                self._told[symptom.name] = replace(symptom, caused_by=root)
                self._emit(self._told[symptom.name], new=False)
                for name, other in self._told.items():
                    if other.caused_by == symptom.name:
                        self._told[name] = replace(other, caused_by=root)

    def _emit(self, finding: Finding, *, new: bool) -> None:
        self._each("finding", finding, new=new)

    def _each(self, method: str, *args: object, **kwargs: object) -> None:
        for sink in self._sinks:
            self._to(sink, method, *args, **kwargs)

    def _to(self, sink: Sink, method: str, *args: object, **kwargs: object) -> None:
        if self._receives(sink):
            with self.contain(_part(sink)):
                getattr(sink, method)(*args, **kwargs)

    def _receives(self, sink: Sink) -> bool:
        return self.contain.works(_part(sink))


def _part(sink: Sink) -> str:
    return f"sink {type(sink).__name__}"


def _asks(check: Check, kind: type[Observation]) -> bool:
    """Tell whether a check overrides the method for a kind: its declaration of need."""
    return getattr(type(check), METHODS[kind]) is not getattr(Check, METHODS[kind])
