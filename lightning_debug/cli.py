"""The command line: run a script with the debugger, look findings up, read run folders."""

from __future__ import annotations

import argparse
import difflib
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lightning_debug.check import Check
from lightning_debug.environment import ANSWER, ONLY, VARIABLE
from lightning_debug.registry import all_checks, sections
from lightning_debug.sinks.console import STYLES, report
from lightning_debug.sinks.text import plain
from lightning_debug.stored_run import is_run, read_run

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show is spelled out instead of raising.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = args.command(args)
    except ValueError as error:
        Console(stderr=True).print(Text(f"lightning-debug: {plain(error)}"))
        return USAGE_ERROR
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-debug", description="Finds the bugs in PyTorch Lightning training runs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a training script with the debugger on")
    run.add_argument(
        "--preflight-only",
        action="store_true",
        help="make the experiments on a copy of the model, say what was found, and end the script"
        " before its first update; the exit code is 1 if there was a warning or an error",
    )
    run.add_argument("script", metavar="SCRIPT")
    run.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)
    run.set_defaults(command=_run)

    everything = commands.add_parser("list", help="list every finding")
    everything.set_defaults(command=_list)

    explain = commands.add_parser("explain", help="explain a finding: what, why, what to type")
    explain.add_argument("name", metavar="NAME")
    explain.set_defaults(command=_explain)

    show = commands.add_parser("show", help="show the findings of a run, or a history of runs")
    show.add_argument(
        "run", metavar="RUN", help="a run folder, or a folder in which one lies; of several, a list"
    )
    show.set_defaults(command=_show)

    diff = commands.add_parser(
        "diff",
        help="compare two runs: what was changed, and where they part",
        description="Compare two runs. The exit code is 0 where nothing that matters differs, 1"
        " where something does, and 2 where they cannot be read.",
    )
    for letter in "AB":
        diff.add_argument(f"run_{letter.lower()}", metavar=f"RUN_{letter}", help="a run folder")
    diff.add_argument("--html", metavar="FILE", type=Path, help="write a page as well")
    diff.set_defaults(command=_diff)

    page = commands.add_parser("report", help="write the report of a run, also of a killed one")
    page.add_argument("run", metavar="RUN", help="a run folder, or the log directory it lies in")
    page.add_argument("--output", metavar="FILE", type=Path, help="instead of RUN/report.html")
    page.set_defaults(command=_report)
    return parser


def _run(args: argparse.Namespace) -> int:
    if not Path(args.script).exists():
        raise ValueError(f"there is no script {args.script!r}")
    command = [sys.executable, args.script, *args.args]
    if not args.preflight_only:
        return _wait(command, {VARIABLE: "1"})
    with tempfile.TemporaryDirectory(prefix="lightning_debug") as folder:
        answer = Path(folder) / "answer"
        code = _wait(command, {VARIABLE: ONLY, ANSWER: str(answer)})
        if answer.exists():
            # What came of it, even where the script makes something else of our exit.
            return code or int(answer.read_text(encoding="ascii"))
    return code or _nothing_tried()


def _nothing_tried() -> int:
    text = "the script ended before any training began, so nothing was tried"
    Console(stderr=True).print(Text(f"lightning-debug: {text}"))
    return USAGE_ERROR


def _wait(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program and return its exit code; an interrupt is its own affair."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # The script got it too; it may save a checkpoint and print its findings first.
            continue
        return code if code >= 0 else 128 - code  # ended by a signal: what a shell reports


def _list(args: argparse.Namespace) -> int:
    console = Console()
    for section in sections():
        console.print(Text(section, style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, check in all_checks().items():
            if check.section() == section:
                severity = Text(str(check.severity), style=STYLES[check.severity])
                table.add_row(Text(name), severity, Text(_paragraphs(check)[0]))
        console.print(Padding(table, (0, 0, 1, 2)))
    return 0


def _explain(args: argparse.Namespace) -> int:
    check = _find(args.name)
    console = Console()
    style = STYLES[check.severity]
    console.print(Text.assemble((check.name(), "bold"), " ", (str(check.severity), style)))
    for paragraph in _paragraphs(check):
        if not paragraph.startswith(("Args:", "Attributes:")):
            console.print()
            console.print(Text(" ".join(paragraph.split())))
    console.print()
    console.print(Text.assemble(("Fix: ", "green"), check.fix))
    if check.symptom_of:
        console.print()
        console.print(Text(f"Explained by: {', '.join(check.symptom_of)}"))
    console.print()
    console.print(_thresholds(check))
    console.print()
    console.print(Text(f'Silence it: DebugSuite(ignore=["{check.name()}"])', style="dim"))
    return 0


def _find(name: str) -> type[Check]:
    """Return the check of a finding; class and file names are understood too.

    Raises:
        ValueError: If there is none; the message names the nearest.
    """
    known = all_checks()
    wanted = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).replace("_", "-").lower()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"there is no finding {name!r}. {hint}`lightning-debug list` shows them all.")


def _thresholds(check: type[Check]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Threshold", no_wrap=True)
    table.add_column("Default", no_wrap=True)
    table.add_column("Meaning")
    meanings = {"patience": "Looks in a row before it is told."} | _documented(check)
    for item in fields(check):
        if item.init:
            meaning = meanings.get(item.name, "")
            table.add_row(Text(item.name), Text(repr(_default(item))), Text(meaning))
    return table


def _documented(check: type[Check]) -> dict[str, str]:
    """Return what the ``Args:`` of the docstring say, by name."""
    text = next((p for p in _paragraphs(check) if p.startswith("Args:")), "")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _paragraphs(check: type[Check]) -> list[str]:
    return (inspect.getdoc(check) or "").split("\n\n")


def _show(args: argparse.Namespace) -> int:
    from lightning_debug.tracking import history, terminal

    folder = Path(args.run)
    runs = history.find_runs(folder) if not is_run(folder) else []
    if len(runs) > 1:
        shown = [history.row(run, folder) for run in history.newest(runs)]
        Console().print(terminal.history(shown, more=len(runs) - len(shown)))
        return 0
    run = read_run(runs[0] if runs else folder)
    failures = run.record.get("failures")
    Console().print(
        report(
            run.findings,
            status=str(run.record.get("status", "unknown")),
            failures=failures if isinstance(failures, dict) else {},
            folder=str(run.folder),
        )
    )
    return 0


def _diff(args: argparse.Namespace) -> int:
    # Loaded for this command only: the others start without it.
    from lightning_debug.report import diff_page
    from lightning_debug.tracking import diff, terminal

    difference = diff.compare(read_run(args.run_a), read_run(args.run_b))
    Console().print(terminal.comparison(difference))
    if args.html:
        try:
            path = diff_page.write(difference, args.html)
        except OSError as error:
            raise ValueError(f"the page cannot be written: {error}") from error
        Console(soft_wrap=True).print(Text(f"\n{plain(path)}"))
    return 0 if difference.alike else 1


def _report(args: argparse.Namespace) -> int:
    # Loaded for this command only: the others start without it.
    from lightning_debug.report.page import write

    try:
        path = write(read_run(args.run), args.output)
    except OSError as error:
        raise ValueError(f"the report cannot be written: {error}") from error
    Console(soft_wrap=True).print(Text(plain(path)))  # not broken in two: it is to be copied
    return 0
