"""What a check has to say: data only, drawn by the sinks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

# What compiling, checkpointing and sharding put into the names of what they wrap.
WRAPPERS = "(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)"
WRAPPED = re.compile(rf"\b{WRAPPERS}\.|\.{WRAPPERS}\b")


class Severity(str, Enum):
    """How much a finding should worry the reader; ordered, and equal to its word."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Return 0 for info, 1 for a warning, 2 for an error."""
        return list(Severity).index(self)

    def __str__(self) -> str:
        return self.value

    # str would compare alphabetically, and "error" < "info" is not what a reader means.
    def __lt__(self, other: object) -> bool:
        return self.rank < Severity(other).rank

    def __le__(self, other: object) -> bool:
        return self.rank <= Severity(other).rank

    def __gt__(self, other: object) -> bool:
        return self.rank > Severity(other).rank

    def __ge__(self, other: object) -> bool:
        return self.rank >= Severity(other).rank


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a run, where, how we know, and what to type.

    Places are named as the program names them, without what wrappers put in between: ``net.0`` of
    a compiled ``net``, not ``net._orig_mod.0``.

    Attributes:
        name: Public, stable name in kebab-case, such as ``"dead-relu"``.
        severity: Error (broken), warning (very probably harmful) or info.
        message: One sentence with the measured numbers.
        where: The place: a module path, parameter, optimizer, loss call or the data.
        why: Why it hurts.
        fix: What to type.
        places: Every place of a finding that covers several; ``where`` shows the first of them.
        step: Optimizer updates made when it was first seen.
        epoch: Epoch in which it was first seen.
        count: Number of looks at which it was seen.
        evidence: The plain numbers and words behind the message.
        caused_by: Name of the finding that explains this one; empty for a root cause.
        patience: Looks in a row that this place needs before it is told; 0 for the check's own.
    """

    name: str
    severity: Severity
    message: str
    where: str = ""
    why: str = ""
    fix: str = ""
    places: tuple[str, ...] = ()
    step: int = 0
    epoch: int = 0
    count: int = 1
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    caused_by: str = ""
    patience: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", MappingProxyType(dict(self.evidence)))
        for name in ("message", "where", "fix"):
            object.__setattr__(self, name, _unwrapped(getattr(self, name)))
        object.__setattr__(self, "places", tuple(map(_unwrapped, self.places)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.as_dict(),)  # a mapping proxy cannot be pickled

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain values that JSON can hold."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["evidence"] = dict(self.evidence)
        fields["severity"] = self.severity.value
        fields["places"] = list(self.places)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Finding:
        """Rebuild a finding from :meth:`as_dict`; unknown keys are dropped."""
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        known["severity"] = Severity(known["severity"])
        known["places"] = tuple(known.get("places", ()))
        return cls(**known)


def _unwrapped(text: str) -> str:
    return WRAPPED.sub("", text)


def _rebuild(fields: Mapping[str, Any]) -> Finding:
    return Finding.from_dict(fields)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Order causes by severity and step, each followed by the symptoms that it explains."""
    ranked = sorted(findings, key=lambda f: (-f.severity.rank, f.step))
    names = {finding.name for finding in ranked}
    explained: dict[str, list[Finding]] = defaultdict(list)
    for finding in ranked:
        explained[finding.caused_by if finding.caused_by in names else ""].append(finding)
    ordered: list[Finding] = []
    waiting = explained.pop("", [])[::-1]
    while waiting:
        finding = waiting.pop()
        ordered.append(finding)
        waiting += reversed(explained.pop(finding.name, []))
    # What is left is in a circle, which only a damaged file can hold.
    return ordered + [finding for circle in explained.values() for finding in circle]


class TrainingBugError(RuntimeError):
    """Raised in strict mode only: the run has a finding that strict mode does not accept."""
