"""Tells of experiments: what was tried, what came of it, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_debug.experiment import Experiment
from lightning_debug.sinks.text import plain

STYLES = {"passed": "green", "found": "bold red", "not applicable": "dim"}


def table(experiments: Sequence[Experiment]) -> RenderableType:
    """Return a line for each experiment."""
    title = Text("lightning_debug: experiments on a copy of the model", style="bold")
    if not experiments:
        return Text("lightning_debug: no experiments were made", style="bold")
    grid = Table(box=box.ROUNDED, border_style="dim", header_style="bold")
    grid.add_column("Experiment")
    grid.add_column("Outcome", no_wrap=True)
    grid.add_column("Time", no_wrap=True, justify="right")
    grid.add_column("What was seen", ratio=1, overflow="fold")
    for experiment in experiments:
        grid.add_row(
            Text(plain(experiment.name)),
            Text(experiment.outcome, style=STYLES.get(experiment.outcome, "")),
            Text(f"{experiment.seconds:.1f} s", style="dim"),
            Text(plain(_seen(experiment))),
            style="dim" if experiment.outcome == "not applicable" else "",
        )
    return Group(title, grid)


def _seen(experiment: Experiment) -> str:
    return "; ".join(filter(None, (", ".join(experiment.findings), experiment.detail)))
