"""Two runs compared: what was changed, where they part, and what came of it. Data only."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from lightning_debug.finding import Finding
from lightning_debug.stored_run import StoredRun, read_losses
from lightning_debug.tracking import divergence
from lightning_debug.tracking.divergence import LayerParting, Parting
from lightning_debug.tracking.values import flat

Keys = AbstractSet[str]

# Where in the record each kind of change is to be looked for.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "parameters": ("command", "hyperparameters", "trainer", "optimizers", "schedulers"),
    "code": ("git",),
    "data": ("data",),
    "model": ("model", "parameters", "trainable_parameters", "weights"),
    "seed": ("seeds", "determinism"),
    "packages": ("packages", "python"),
    "environment": ("platform", "machine", "environment", "folder"),
}
# What says elsewhere again, or changes nothing: shown, but not what two runs differ by.
ASIDE = (
    *("command", "folder", "environment.PL_GLOBAL_SEED", "environment.PL_SEED_WORKERS"),
    *("git.untracked", "git.changed_files", "git.branch", "git.remote", "trainer.loggers"),
)
# What differs already where the seed does.
BY_SEED = ("weights.initial_weights", "data.first_batches", "data.fingerprint")
MOST_CHANGES = 200
MOST_DIFF_LINES = 400
# By what it is known that a section was recorded.
KNOWN_BY = {"code": "git", "data": "data", "model": "weights", "seed": "seeds"}
HEADINGS = {
    "data": "the data differ",
    "model": "the model differs",
    "packages": "packages differ",
    "environment": "the environment differs",
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One entry of the record that two runs have differently; None where one lacks it."""

    name: str
    values: tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class FindingChange:
    """A finding that two runs do not share, or at another severity; None where it is not there."""

    name: str
    findings: tuple[Finding | None, Finding | None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What two runs differ by.

    Attributes:
        names: Of the runs: where their folders lie.
        verdict: The conclusion, in a sentence or two.
        alike: Whether nothing that matters differs: same record, losses and findings.
        changes: By section, such as ``"parameters"``.
        patch: Lines of a diff between the uncommitted changes of both.
        missing: What cannot be compared, in words.
        losses: Where the losses part.
        layer: First number of a layer that differs by more than rounding.
        clear_layer: First number of a layer that differs by more than its scatter.
        findings: Those that came, went, or changed severity.
        metrics: Final metrics by name, of both runs; None where one lacks it.
        status: How each run ended.
    """

    names: tuple[str, str]
    verdict: str
    alike: bool
    changes: Mapping[str, tuple[Change, ...]]
    patch: tuple[str, ...]
    missing: tuple[str, ...]
    losses: Parting
    layer: LayerParting | None
    clear_layer: LayerParting | None
    findings: tuple[FindingChange, ...]
    metrics: tuple[Change, ...]
    status: tuple[str, str]


def compare(a: StoredRun, b: StoredRun) -> Difference:
    """Compare two runs; what one of them lacks is said to be missing."""
    records = _record(a), _record(b)
    both = records[0].keys() & records[1].keys()
    changes = {
        section: found
        for section, keys in SECTIONS.items()
        if (found := tuple(_changes(*(_section(record, keys, both) for record in records))))
    }
    losses = divergence.losses(read_losses(a.folder), read_losses(b.folder))
    findings = tuple(_finding_changes(a.findings, b.findings))
    missing = tuple(_missing(a, b, losses))
    same_losses = losses.first is None and losses.curves[0].length == losses.curves[1].length
    return Difference(
        names=(str(a.folder), str(b.folder)),
        verdict=" ".join((_conclusion(changes, losses, both), *_ends(losses))),
        alike=same_losses and not findings and not _matters(changes),
        changes=changes,
        patch=tuple(_patch(records[0], records[1])),
        missing=missing,
        losses=losses,
        layer=divergence.layers(a.stats, b.stats),
        clear_layer=divergence.layers(a.stats, b.stats, noisy=True),
        findings=findings,
        metrics=tuple(_metrics(a, b)),
        status=(_status(a), _status(b)),
    )


def shown(value: Any) -> str:
    """Return a value of a record in words."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _record(run: StoredRun) -> dict[str, Any]:
    record = run.record.get("record")
    known = dict(record) if isinstance(record, Mapping) else {}
    return {key: value for key, value in known.items() if value != {}}


def _status(run: StoredRun) -> str:
    return str(run.record.get("status", "unknown"))


def _section(record: Mapping[str, Any], keys: Iterable[str], both: Keys) -> dict[str, Any]:
    """Return the entries of a section by dotted names, of what both runs have recorded."""
    found = dict(flat({key: record[key] for key in keys if key in both}))
    if isinstance(found.get("command"), list):
        found["command"] = " ".join(map(str, found["command"]))
    if "git.diff" in found:  # shown as a patch
        digest = hashlib.sha256(str(found["git.diff"]).encode(errors="replace")).hexdigest()
        found["git.diff"] = f"sha256 {digest[:12]}"
    return found


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[Change]:
    for name in [*a, *(name for name in b if name not in a)][: 10 * MOST_CHANGES]:
        first, second = a.get(name), b.get(name)
        if first != second:
            yield Change(name=name, values=(first, second))


def _matters(changes: Mapping[str, tuple[Change, ...]]) -> dict[str, list[Change]]:
    """Return the changes that a difference can come from."""
    aside = ASIDE + (BY_SEED if "seed" in changes else ())
    found = {
        section: [change for change in some if not change.name.startswith(aside)]
        for section, some in changes.items()
    }
    # One that is loaded in one run only may have been loaded late, as by us for a report.
    found["packages"] = [c for c in found.get("packages", ()) if None not in c.values]
    return {section: some for section, some in found.items() if some}


def _conclusion(changes: Mapping[str, tuple[Change, ...]], losses: Parting, both: Keys) -> str:
    """Return the sentence on top: what differs, and what came of it."""
    matters = _matters(changes)
    if matters:
        same = [name for name, key in KNOWN_BY.items() if key in both and name not in matters]
        head = [f"same {_listed(same)}"] if same else []
        said = [_said(section, some) for section, some in matters.items()]
        text = "; ".join([*head, *said, _parting(losses)])
        return f"{text[0].upper()}{text[1:]}."
    commands = any(c.name.startswith("command") for some in changes.values() for c in some)
    nothing = "nothing recorded differs" + (" but the command line" if commands else "")
    if losses.compared == 0:
        return f"{nothing.capitalize()}; there are no losses to compare."
    if losses.first is None:
        return f"Identical runs: {nothing}, and the losses are the same."
    return (
        f"{nothing.capitalize()}, yet the losses part at step {losses.first}: something is not"
        " seeded, or does not repeat (see nondeterministic-step)."
    )


def _said(section: str, changes: list[Change]) -> str:
    """Return what has changed in a section, in a few words."""
    if section == "seed":
        return _seed(changes)
    if section == "code":
        return _code(changes)
    (name, (before, after)), *others = _by_name(changes).items()
    more = f" and {len(others)} more" if others else ""
    values = f"({_brief(before)} -> {_brief(after)})"
    if section == "parameters":
        return f"{_brief(name)} differs {values}{more}"
    return f"{HEADINGS[section]}: {_brief(name)} {values}{more}"


def _by_name(changes: list[Change]) -> dict[str, tuple[str, str]]:
    """Return changes in words by their last names: one number stands in several places."""
    found: dict[str, tuple[str, str]] = {}
    for change in sorted(changes, key=lambda c: not c.name.startswith("hyperparameters")):
        name = change.name.rpartition(".")[2]
        values = shown(change.values[0]), shown(change.values[1])
        if values not in found.values():
            found[change.name if name.isdigit() else name] = values
    return found


def _code(changes: list[Change]) -> str:
    values = {change.name: change.values for change in changes}
    commits = values.get("git.commit")
    if commits is None:
        return "uncommitted code differs"
    before, after = (str(commit or "none")[:8] for commit in commits)
    return f"the code differs (commit {before} -> {after})"


def _seed(changes: list[Change]) -> str:
    values = {change.name: change.values for change in changes}
    seeds = values.get("seeds.PL_GLOBAL_SEED") or values.get("seeds.torch")
    if seeds is None:
        name, (before, after) = next(iter(values.items()))
        return f"{_brief(name)} differs ({_brief(shown(before))} -> {_brief(shown(after))})"
    words = [str(seed) if isinstance(seed, int) and seed < 2**32 else "none" for seed in seeds]
    if words == ["none", "none"]:
        return "neither run is seeded"
    return f"the seed differs ({words[0]} -> {words[1]})"


def _parting(losses: Parting) -> str:
    if losses.compared == 0:
        return "the losses cannot be compared"
    if losses.first is None:
        return "the losses are the same"
    if losses.clear is None:
        return f"the losses part at step {losses.first}, and stay within their noise"
    if losses.clear <= losses.first:
        return f"the losses part at step {losses.first}"
    return f"the losses part at step {losses.first}, and clearly from step {losses.clear} on"


def _ends(losses: Parting) -> Iterable[str]:
    first, second = losses.curves
    if first.length and second.length and first.length != second.length:
        yield f"Run A has {first.length} losses and run B {second.length}."
    known = math.isfinite(first.last) and math.isfinite(second.last)
    if known and losses.clear is not None and f"{first.last:.3g}" != f"{second.last:.3g}":
        lower = "A" if first.last < second.last else "B"
        yield f"Run {lower} ends lower: {first.last:.3g} against {second.last:.3g}."


def _missing(a: StoredRun, b: StoredRun, losses: Parting) -> Iterable[str]:
    for name, run, curve in (("A", a, losses.curves[0]), ("B", b, losses.curves[1])):
        record = _record(run)
        lacking = [section for section, key in KNOWN_BY.items() if not record.get(key)]
        if not record:
            yield f"run {name} has no record of what ran"
        elif lacking:
            yield f"run {name} has no record of its {_listed(lacking)}"
        if not curve.length:
            yield f"run {name} has no losses"
        if run.skipped:
            yield f"run {name} has {run.skipped} lines that are torn or none of ours"


def _patch(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    """Yield a diff between what both runs had not committed."""
    first, second = (_uncommitted(record) for record in (a, b))
    if first == second:
        return
    lines = difflib.unified_diff(
        first, second, "uncommitted in A", "uncommitted in B", lineterm="", n=1
    )
    for number, line in enumerate(lines):
        if number == MOST_DIFF_LINES:
            yield "..."
            return
        yield line


def _uncommitted(record: Mapping[str, Any]) -> list[str]:
    git = record.get("git")
    diff = git.get("diff", "") if isinstance(git, Mapping) else ""
    # Longer texts take difflib minutes.
    return str(diff).splitlines()[:2000]


def _finding_changes(a: list[Finding], b: list[Finding]) -> Iterable[FindingChange]:
    before, after = ({finding.name: finding for finding in found} for found in (a, b))
    for name in dict.fromkeys([*before, *after]):
        first, second = before.get(name), after.get(name)
        if first is None or second is None or first.severity != second.severity:
            yield FindingChange(name=name, findings=(first, second))


def _metrics(a: StoredRun, b: StoredRun) -> Iterable[Change]:
    first, second = (_numbers(run.record.get("metrics")) for run in (a, b))
    for name in sorted(first.keys() | second.keys())[:MOST_CHANGES]:
        yield Change(name=name, values=(first.get(name), second.get(name)))


def _numbers(metrics: Any) -> dict[str, Any]:
    return dict(metrics) if isinstance(metrics, Mapping) else {}


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _brief(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
