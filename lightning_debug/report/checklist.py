"""What a run says to every point of the checklist for debugging neural networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_debug.finding import Severity
from lightning_debug.report.points import CHECKLIST, Point, Question, ask
from lightning_debug.stored_run import StoredRun

State = Literal["found", "passed", "not looked at", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run says to a point.

    Attributes:
        title: The point.
        state: Passed is said only of what was looked at.
        reason: How we know, in words.
        findings: The warnings and errors that were told.
    """

    title: str
    state: State
    reason: str
    findings: tuple[str, ...] = ()


OWN = "Checks of your own"


def answers(run: StoredRun) -> dict[str, list[Answer]]:
    """Return what a run says to every point of the checklist, by section."""
    desk = _Desk(run)
    sections = {
        section: [desk.answer(point) for point in points] for section, points in CHECKLIST.items()
    }
    return sections | ({OWN: own} if (own := [desk.answer(p) for p in _own_points(run)]) else {})


def _own_points(run: StoredRun) -> Iterator[Point]:
    listed = {q.finding for points in CHECKLIST.values() for p in points for q in p.questions}
    names = [*_mapping(run.record.get("looked")), *(finding.name for finding in run.findings)]
    for name in dict.fromkeys(names):
        if name not in listed:
            yield Point(title=name, questions=ask(name))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What a run says to one question: in words, or by how often it was looked at."""

    name: str
    state: State
    words: str = ""
    looks: int = 0


class _Desk:
    """Answers questions about one run."""

    def __init__(self, run: StoredRun) -> None:
        self._run = run
        self._told = {finding.name: finding for finding in run.findings}
        self._looked = _mapping(run.record.get("looked"))
        self._failures = _mapping(run.record.get("failures"))

    def answer(self, point: Point) -> Answer:
        if point.shows:
            return SHOWS[point.shows](self._run, point.title)
        parts = [self._part(question) for question in point.questions]
        # One that was found counts more than what passed, and that more than what was left out.
        state = min((part.state for part in parts), key=ORDER.index)
        said = [part for part in parts if part.state != "passed" or state == "passed"]
        return Answer(
            title=point.title,
            state=state,
            reason="; ".join([*_looks(said), *_words(said, alone=len(parts) == 1)]),
            findings=tuple(part.name for part in parts if part.state == "found"),
        )

    def _part(self, question: Question) -> _Part:
        name = question.finding
        told = self._told.get(name)
        if told and told.severity > Severity.INFO:
            cause = f"explained by {told.caused_by}" if told.caused_by else ""
            return _Part(name=name, state="found", words=cause)
        looks = self._looked.get(name)
        if missing := self._missing(name):
            return _Part(name=name, state="not looked at", words=missing)
        if question.needs:
            there, reason = NEEDS[question.needs](self._run)
            if not there:
                return _Part(name=name, state="not applicable", words=reason)
        if not isinstance(looks, int) or looks < 1:
            return _Part(name=name, state="not looked at", words="nothing came up to look at")
        if question.experiment:
            return self._tried(name, question.experiment)
        worth = f"worth knowing: {told.message.rstrip('.')}" if told else ""
        return _Part(name=name, state="passed", words=worth, looks=looks)

    def _missing(self, name: str) -> str:
        """Return why a check could not look, if so."""
        if error := self._failures.get(f"check {name}"):
            return f"the check failed: {error}"
        if not self._looked:
            return "the run left no word of what was looked at"
        if name not in self._looked:
            return "switched off by select, ignore, or the sections in use"
        return ""

    def _tried(self, name: str, experiment: str) -> _Part:
        tries = [each for each in self._run.experiments if each.name == experiment]
        made = [each for each in tries if each.outcome != "not applicable"]
        quoted = f"experiment \u201c{experiment}\u201d"
        if made:
            words = f"{quoted}, {made[-1].detail or 'made ' + _times(len(made))}"
            return _Part(name=name, state="passed", words=words)
        if tries:
            words = f"{quoted}, {tries[-1].detail or 'does not apply'}"
            return _Part(name=name, state="not applicable", words=words)
        failed = next((f for part, f in self._failures.items() if "experiment" in part), "")
        words = f"{quoted} was not made" + (f"; an experiment failed: {failed}" if failed else "")
        return _Part(name=name, state="not looked at", words=words)


ORDER: tuple[State, ...] = ("found", "passed", "not looked at", "not applicable")


def _looks(parts: list[_Part]) -> Iterator[str]:
    """Yield how often was looked: ``"looked at 20 to 62 times"``."""
    looks = sorted({part.looks for part in parts if part.looks})
    if looks:
        span = f"{looks[0]} to " if len(looks) > 1 else ""
        yield f"looked at {span}{_times(looks[-1])}"


def _words(parts: list[_Part], *, alone: bool) -> Iterator[str]:
    """Yield each reason once, after the names that it holds for."""
    holders: dict[str, list[str]] = {}
    for part in parts:
        if part.words:
            holders.setdefault(part.words, []).append(part.name)
    for words, names in holders.items():
        yield words if alone or len(names) == len(parts) else f"{', '.join(names)}: {words}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _kinds(*words: str) -> Callable[[StoredRun], bool]:
    """Return whether a module of the network is named so; without a whole drawing: perhaps."""

    def there(run: StoredRun) -> bool:
        network = run.network
        whole = network is not None and not network.more
        return not whole or any(
            word in node.kind for node in (network.nodes if network else ()) for word in words
        )

    return there


_norms = _kinds("BatchNorm")
# The last four drop values without a module for it.
_drops = _kinds("Dropout", "Attention", "LSTM", "GRU", "RNN")


def _validated(run: StoredRun) -> bool:
    observed = run.record.get("observed")
    return not isinstance(observed, Mapping) or any("validation" in k.lower() for k in observed)


def _rectified(run: StoredRun) -> bool:
    layers = [look.layers for look in run.stats if look.layers]
    return not layers or any("dead-share" in metrics for metrics in layers)


def _narrow(run: StoredRun) -> bool:
    precision = _searched(run.record.get("record"), "precision")
    return not (isinstance(precision, str) and precision.startswith(("32", "64")))


def _several(run: StoredRun) -> bool:
    return bool(_searched(run.record.get("record"), "devices") != 1)


def _searched(value: Any, key: str) -> Any:
    """Return the value of a key, in a record or in one of its parts."""
    if not isinstance(value, Mapping):
        return None
    if key in value:
        return value[key]
    return next((found for part in value.values() if (found := _searched(part, key))), None)


def _need(
    there: Callable[[StoredRun], bool], reason: str
) -> Callable[[StoredRun], tuple[bool, str]]:
    return lambda run: (there(run), reason)


# By name: whether it is there, and what to say where it is not.
NEEDS: Mapping[str, Callable[[StoredRun], tuple[bool, str]]] = {
    "ReLU": _need(_rectified, "no ReLU in the network"),
    "batch norm": _need(_norms, "no batch norm layer in the network"),
    "dropout": _need(_drops, "no dropout layer in the network"),
    "dropout in validation": _need(
        lambda run: _drops(run) and _validated(run), "no dropout was evaluated in the run"
    ),
    "dropout and batch norm": _need(
        lambda run: _norms(run) and _drops(run),
        "not both in layers of the network",
    ),
    "validation": _need(_validated, "no validation in the run"),
    "reduced precision": _need(_narrow, "the run computes in full precision"),
    "several processes": _need(_several, "the run is one process"),
}


def _shows(count: Callable[[StoredRun], int], thing: str, missing: str) -> Callable[..., Answer]:
    def answer(run: StoredRun, title: str) -> Answer:
        number = count(run)
        state: State = "passed" if number else "not looked at"
        words = f"{thing}: {number}" if number else missing
        return Answer(title=title, state=state, reason=words)

    return answer


def _pictures(*kinds: str) -> Callable[[StoredRun], int]:
    return lambda run: sum(picture_kind(picture) in kinds for picture in run.pictures)


def picture_kind(picture: Any) -> str:
    """Return the kind of a picture, such as ``"feature maps"``; histograms are one kind."""
    return "histogram" if type(picture).__name__ == "Histogram" else str(picture.kind)


def _recorded(*keys: str) -> Callable[[StoredRun, str], Answer]:
    def answer(run: StoredRun, title: str) -> Answer:
        record = _mapping(run.record.get("record"))
        there = [key for key in keys if record.get(key)]
        reason = f"in the record: {', '.join(there)}" if there else "not recorded"
        return Answer(title=title, state="passed" if there else "not looked at", reason=reason)

    return answer


NOT_DRAWN = "none was drawn"
# By name: what the report shows for a point that nothing can be found at.
SHOWS: Mapping[str, Callable[[StoredRun, str], Answer]] = {
    "network": _shows(lambda run: len(run.network.nodes) if run.network else 0, "boxes", NOT_DRAWN),
    "layers": _shows(
        lambda run: sum(bool(look.layers) for look in run.stats), "looks", "no look was made"
    ),
    "histograms": _shows(_pictures("histogram"), "histograms", NOT_DRAWN),
    "filters": _shows(_pictures("filters"), "pictures", f"{NOT_DRAWN}; only convolutions have any"),
    "activations": _shows(
        _pictures("feature maps", "units", "firing units"), "pictures", NOT_DRAWN
    ),
    "saliency": _shows(_pictures("saliency", "Grad-CAM", "input gradients"), "pictures", NOT_DRAWN),
    "code": _recorded("git"),
    "data": _recorded("data"),
    "settings": _recorded("hyperparameters", "trainer", "optimizers"),
    "model": _recorded("model", "weights"),
    "environment": _recorded("packages", "python", "machine", "environment"),
    "metrics": _shows(
        lambda run: len(_mapping(run.record.get("metrics"))), "metrics", "the run logged none"
    ),
}
