"""Comparisons and histories of runs for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_debug.sinks.text import plain
from lightning_debug.tracking.diff import Change, Difference, FindingChange, shown
from lightning_debug.tracking.divergence import LayerParting
from lightning_debug.tracking.history import Row

MOST_SHOWN = 24
MOST_PATCH = 40
MOST_TEXT = 160


def comparison(difference: Difference) -> RenderableType:
    """Return what two runs differ by; the conclusion comes first."""
    return Group(*_parts(difference))


def history(rows: Sequence[Row], *, more: int = 0) -> RenderableType:
    """Return a table of runs, one line each; ``more`` of them are not shown."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    names = [item.name for item in fields(Row)]
    if len({row.model for row in rows}) == 1:
        names.remove("model")  # the same in each line
    for name in names:
        numeric = name in ("updates", "seed")
        folds = name in ("model", "findings", "last", "folder")
        table.add_column(
            name,
            justify="right" if numeric else "left",
            overflow="fold" if folds else "ellipsis",
            no_wrap=not folds,
        )
    for row in rows:
        table.add_row(*(Text(_short(getattr(row, name))) for name in names))
    left = [Text(f"... and {more} older runs")] if more else []
    return Group(*left, table, Text("lightning-debug show RUN shows one of them.", style="dim"))


def _parts(difference: Difference) -> Iterator[RenderableType]:
    yield Text(plain(difference.verdict), style="bold")
    for letter, name, status in zip("AB", difference.names, difference.status, strict=True):
        yield Text(f"{letter}: {plain(name)} ({_short(status)})", style="dim")
    for text in difference.missing:
        yield Text(f"not known: {plain(text)}")
    for section, changes in difference.changes.items():
        yield from _table(section, changes)
    if difference.patch:
        yield from _patch(difference.patch)
    yield from _where(difference)
    if difference.findings:
        yield Text("\nfindings", style="bold")
        yield from map(_finding, difference.findings)
    if difference.metrics:
        yield from _table("final metrics", difference.metrics)


def _table(title: str, changes: Sequence[Change]) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    table.add_column("", overflow="fold", ratio=2)
    table.add_column("A", overflow="fold", ratio=3)
    table.add_column("B", overflow="fold", ratio=3)
    for change in changes[:MOST_SHOWN]:
        values = (_short(shown(value)) for value in change.values)
        table.add_row(Text(_short(change.name)), *map(Text, values))
    yield table
    if len(changes) > MOST_SHOWN:
        yield Text(f"  ... and {len(changes) - MOST_SHOWN} more")


def _patch(lines: Sequence[str]) -> Iterator[Text]:
    yield Text("\nuncommitted changes", style="bold")
    for line in lines[:MOST_PATCH]:
        style = {"+": "green", "-": "red"}.get(line[:1], "")
        # The indent is kept: it is code.
        indent = line[:1] + " " * (len(line[1:]) - len(line[1:].lstrip()))
        yield Text(f"  {indent}{_short(line[1:])}", style=style)
    if len(lines) > MOST_PATCH:
        yield Text(f"  ... and {len(lines) - MOST_PATCH} more lines")


def _where(difference: Difference) -> Iterator[Text]:
    yield Text("\nwhere they part", style="bold")
    losses = difference.losses
    if losses.first is None:
        yield Text(f"  losses: the same at all {losses.compared} steps that both have")
    else:
        noise = "within noise" if losses.clear is None else f"beyond noise from {losses.clear} on"
        yield Text(f"  losses: from step {losses.first} on, {noise}")
    if difference.layer is None:
        yield Text("  layers: no number differs")
        return
    yield Text(f"  layers: {layer_words(difference.layer)}")
    clear = difference.clear_layer
    if clear and (clear.step, clear.layer) != (difference.layer.step, difference.layer.layer):
        yield Text(f"  layers beyond noise: {layer_words(clear)}")


def layer_words(layer: LayerParting) -> str:
    """Return where a number of a layer differs, in words."""
    first, second = layer.values
    others = f"; {layer.others} more with it" if layer.others else ""
    metric = layer.metric.replace("-", " ")
    values = f"({first:.4g} -> {second:.4g})"
    return f"from step {layer.step} on, {metric} of {_short(layer.layer)} {values}{others}"


def finding_words(change: FindingChange) -> str:
    """Return what became of a finding, in words."""
    first, second = change.findings
    if first is None and second is not None:
        return f"came: {second.severity} {_short(change.name)}: {_short(second.message)}"
    if second is None and first is not None:
        return f"gone: {first.severity} {_short(change.name)}: {_short(first.message)}"
    severities = " -> ".join(str(f.severity) for f in change.findings if f)
    return f"changed: {_short(change.name)}: {severities}"


def _finding(change: FindingChange) -> Text:
    return Text(f"  {finding_words(change)}")


def _short(value: Any) -> str:
    """Return one safe line of bounded length."""
    if isinstance(value, float) and math.isnan(value):
        return "-"
    text = plain(str(value)[: 4 * MOST_TEXT])
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."
