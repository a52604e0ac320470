"""Tells the terminal: a few lines when a finding appears, one table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import rich.console
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lightning_debug.finding import Finding, Severity
from lightning_debug.sinks.sink import RunInfo, Sink
from lightning_debug.sinks.text import encodable, headline, plain, tally

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


class Console(Sink):
    """Prints findings as they appear, and all of them when the run ends.

    Everything goes through the run's own ``write``, which knows how not to tear a progress bar.

    Args:
        console: Whose width and colours to use; the standard output's by default.
    """

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self._console = console
        self._run = RunInfo()

    def start(self, run: RunInfo) -> None:
        """Remember where to write."""
        self._run = run

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Print a new finding; later changes are left to the table."""
        if new:
            self._write(announcement(finding))

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Print the table of all findings."""
        self._write(report(findings, status=status, failures=failures, folder=self._run.folder))

    def _write(self, part: RenderableType) -> None:
        # Made for each use: a test or a notebook may have replaced sys.stdout since.
        console = self._console or rich.console.Console()
        with console.capture() as capture:
            console.print(part)
        text = "\n".join(line.rstrip() for line in capture.get().splitlines())
        self._run.write(encodable(text, console.encoding))


def announcement(finding: Finding) -> RenderableType:
    """Return what is printed when a finding appears: a line for what nobody has to act on."""
    if finding.caused_by:
        cause = plain(finding.caused_by)
        return Text(f"{finding.severity} {headline(finding)}: explained by {cause}", style="dim")
    if finding.severity is Severity.INFO:
        return Text(f"info {headline(finding)}: {plain(finding.message)}", style="dim")
    return Group(
        Text.assemble((str(finding.severity), STYLES[finding.severity]), " ", headline(finding)),
        *(Padding(line, (0, 0, 0, 2)) for line in _details(finding)),
    )


def report(
    findings: Sequence[Finding],
    *,
    status: str = "completed",
    failures: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> RenderableType:
    """Return the end of a run: its findings, worst first, and where the numbers are."""
    alarming = any(finding.severity > Severity.INFO for finding in findings)
    return Group(
        *(_all_told(findings, status) if alarming else _all_quiet(findings, status)),
        *_footer(failures or {}, folder),
    )


def _all_told(findings: Sequence[Finding], status: str) -> Iterator[RenderableType]:
    # Not the title of the table, which would be wrapped to the width of a narrow one.
    yield Text(f"lightning_debug: {tally(findings)}{_ending(status)}", style="bold")
    table = Table(box=box.ROUNDED, border_style="dim", show_header=False, show_lines=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    names = {finding.name for finding in findings}
    for finding in findings:
        explained = finding.caused_by in names
        lines = Group(Text(headline(finding), style="bold"), *_details(finding))
        table.add_row(
            Text(str(finding.severity), style="dim" if explained else STYLES[finding.severity]),
            Padding(lines, (0, 0, 0, 2 * explained)),
            style="dim" if explained or finding.severity is Severity.INFO else "",
        )
    yield table


def _all_quiet(findings: Sequence[Finding], status: str) -> Iterator[Text]:
    yield Text(f"lightning_debug: no warnings or errors{_ending(status)}", style="dim")
    for finding in findings:
        yield Text(f"  info {headline(finding)}: {plain(finding.message)}", style="dim")


def _footer(failures: Mapping[str, str], folder: str | None) -> Iterator[Text]:
    for part, error in failures.items():
        yield Text(f"switched off after a failure of its own: {plain(part)} ({plain(error)})")
    if folder:
        yield Text(f"run folder: {plain(folder)}", style="dim")


def _details(finding: Finding) -> Iterator[Text]:
    yield Text(plain(finding.message))
    if finding.caused_by:
        yield Text(f"explained by {plain(finding.caused_by)}; fix that first")
    elif finding.fix:
        yield Text.assemble(("fix: ", "green"), plain(finding.fix))


def _ending(status: str) -> str:
    return "" if status == "completed" else f" ({plain(status)})"
