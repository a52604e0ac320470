"""Nested values of any kind as rows that a page can show, bounded in number and depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_debug.report.rendering import MOST_CHARACTERS, clean, number

MOST_ROWS = 400
MOST_DEPTH = 6
MOST_ITEMS = 40
MOST_NAME = 120
MOST_VALUE = 500


@dataclass(frozen=True, kw_only=True)
class Row:
    """A name, and its value or the rows below it."""

    name: str
    value: str = ""
    parts: list[Row] = field(default_factory=list)
    lines: bool = False


def rows(values: Any, *, most: int = MOST_ROWS) -> list[Row]:
    """Return a mapping as rows; empty for anything else."""
    return _Rows(most).of(values.items(), MOST_DEPTH) if isinstance(values, Mapping) else []


class _Rows:
    """Makes rows until there are too many."""

    def __init__(self, most: int) -> None:
        self._left = most

    def of(self, items: Iterable[tuple[Any, Any]], depth: int) -> list[Row]:
        made: list[Row] = []
        for name, value in items:
            if self._left <= 0:
                return [*made, Row(name="…", value="more is left out here")]
            self._left -= 1
            made.append(self._row(clean(name, MOST_NAME), value, depth))
        return made

    def _row(self, name: str, value: Any, depth: int) -> Row:
        if isinstance(value, Mapping) and value and _numbered(value):
            return Row(name=name, value=clean(_listed(list(map(_pair, value.items()))), MOST_VALUE))
        if depth and isinstance(value, Mapping) and value:
            return Row(name=name, parts=self.of(value.items(), depth - 1))
        if isinstance(value, (list, tuple)):
            if depth and any(isinstance(item, (Mapping, list, tuple)) for item in value):
                return Row(name=name, parts=self.of(enumerate(value), depth - 1))
            return Row(name=name, value=clean(_listed(value), MOST_VALUE))
        text = _text(value)
        lines = "\n" in text
        return Row(
            name=name, value=clean(text, MOST_CHARACTERS if lines else MOST_VALUE), lines=lines
        )


def _numbered(values: Mapping[Any, Any]) -> bool:
    """Tell whether these are single values by number, such as the samples of each class."""
    nested = (Mapping, list, tuple)
    return all(str(k).isdigit() and not isinstance(v, nested) for k, v in values.items())


def _pair(item: tuple[Any, Any]) -> str:
    return f"{item[0]}: {_text(item[1])}"


def _listed(values: list[Any] | tuple[Any, ...]) -> str:
    more = f" and {len(values) - MOST_ITEMS} more" if len(values) > MOST_ITEMS else ""
    return ", ".join(_text(value) for value in values[:MOST_ITEMS]) + more or "none"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (Mapping, list, tuple)):
        return f"{len(value)} entries" if value else "none"
    return str(value)
