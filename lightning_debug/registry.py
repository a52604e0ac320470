"""Which checks there are: the folder ``checks/`` is the registry."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from lightning_debug import checks as _folder
from lightning_debug.check import Check
from lightning_debug.finding import Finding


@functools.cache
def all_checks() -> dict[str, type[Check]]:
    """Return every check class by name, in the order of sections and files."""
    found: dict[str, type[Check]] = {}
    for info in pkgutil.walk_packages(_folder.__path__, _folder.__name__ + "."):
        if not info.ispkg:
            module = importlib.import_module(info.name)
            for value in vars(module).values():
                own = inspect.isclass(value) and value.__module__ == info.name
                if own and issubclass(value, Check):
                    found[value.name()] = value
    return found


def sections() -> list[str]:
    """Return the names of the sections that have checks."""
    return sorted({cls.section() for cls in all_checks().values()})


def validate(patterns: Sequence[str], argument: str) -> tuple[str, ...]:
    """Return the patterns as a tuple.

    Raises:
        TypeError: If ``patterns`` is not a list of strings.
        ValueError: If one names neither a finding nor a section; the message names the nearest.
    """
    if isinstance(patterns, str) or not all(isinstance(item, str) for item in patterns):
        raise TypeError(f"{argument}={patterns!r} must be a list of strings, such as ['dead-relu']")
    known = [*all_checks(), *sections()]
    for pattern in patterns:
        name = pattern.partition(":")[0]
        if name not in known:
            near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=3)
            hint = " or ".join(repr(item) for item in near)
            advice = f"Did you mean {hint}?" if near else f"Sections are {', '.join(sections())}."
            raise ValueError(
                f"{argument}: {name!r} matches no finding or section. {advice}"
                " `lightning-debug list` shows all of them."
            )
    return tuple(patterns)


def matches(pattern: str, finding: Finding, section: str) -> bool:
    """Tell whether ``name``, ``section`` or ``name:place-glob`` covers a finding at one place."""
    name, _, place = pattern.partition(":")
    return name in (finding.name, section) and (not place or fnmatchcase(finding.where, place))


def choose(
    names: Iterable[str] | None,
    instances: Iterable[Check],
    select: Sequence[str],
    ignore: Sequence[str],
) -> list[Check]:
    """Return fresh checks: those of ``names`` (None: all), with the user's own put in.

    Raises:
        TypeError: If one of ``instances`` is not a check.
    """
    own: dict[str, Check] = {}
    for check in instances:
        if not isinstance(check, Check):
            raise TypeError(
                f"checks: {check!r} is not a Check instance, such as DeadRelu(share=0.5)"
            )
        own[check.name()] = copy.deepcopy(check)
    classes = all_checks()
    chosen = {name: classes[name]() for name in (classes if names is None else names)}
    chosen.update(own)
    wanted = {pattern.partition(":")[0] for pattern in select}
    dropped = {pattern for pattern in ignore if ":" not in pattern}
    return [
        check
        for name, check in chosen.items()
        if (not wanted or {name, check.section()} & wanted or name in own)
        and not {name, check.section()} & dropped
    ]
