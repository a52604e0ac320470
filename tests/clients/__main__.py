"""Trains other people's programs, bare and with the debugger on: ``make clients``.

Each folder beside this file is a client: a project from the package index (``requirements.txt``,
installed into an environment of its own) and programs that train with its public interface
(``train*.py``). Each program runs twice, without and with ``LIGHTNING_DEBUG=1`` and nothing else
changed. The last line that it prints is a fingerprint of its weights and metrics: both runs must
print the same. Warnings and errors must be those that ``findings.json`` explains, and no others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".clients"
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
VARIABLE = "LIGHTNING_DEBUG"
LIMIT = 3600


@dataclass(frozen=True)
class Run:
    """What one run of a program has left."""

    folder: Path
    seconds: float
    code: int
    output: str

    @property
    def fingerprint(self) -> str:
        """Return the last line."""
        return next(reversed(self.output.split()), "")


@dataclass(frozen=True)
class Program:
    """A program of a client."""

    script: Path

    @property
    def client(self) -> str:
        return self.script.parent.name

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.client / "bin" / "python"

    @property
    def explained(self) -> dict[str, str]:
        """Return why each finding is right, by place and name; one of them at least is there."""
        file = self.script.parent / "findings.json"
        found: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.is_file() else {}
        return found.get(self.script.stem, {})

    def run(self, *, debug: bool) -> Run:
        """Run it in an empty folder of its own."""
        folder = (
            ENVIRONMENTS / "runs" / self.client / self.script.stem / ("on" if debug else "bare")
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        paths = [str(HERE / "shared"), *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
        settings |= {VARIABLE: "1" if debug else "0", "OMP_NUM_THREADS": "1"}
        started = time.monotonic()
        with (folder / "log.txt").open("w+") as log:
            command = [str(self.python), str(self.script)]
            done = subprocess.run(
                command, cwd=folder, env=settings, stdout=log, stderr=log, timeout=LIMIT
            )
            log.seek(0)
            return Run(folder, time.monotonic() - started, done.returncode, log.read())


def main() -> int:
    """Run the clients that are named, or all; return how many programs are not as they must be."""
    names = sorted(file.parent.name for file in HERE.glob("*/requirements.txt"))
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(names))
    chosen = parser.parse_args().clients or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"no such client: {', '.join(unknown)}")
    bad = 0
    for client in chosen:
        install(client)
        for script in sorted((HERE / client).glob("train*.py")):
            bad += report(Program(script))
    return bad


def install(client: str) -> None:
    """Make the environment of a client, if there is none for what it requires now."""
    folder, required = ENVIRONMENTS / client, HERE / client / "requirements.txt"
    ready = folder / "ready.txt"
    if ready.is_file() and ready.read_text() == required.read_text():
        return
    say(f"installing {client}")
    venv.create(folder, clear=True, with_pip=True)
    pip = [folder / "bin" / "pip", "install", "--quiet"]
    # Torch first and alone, so that no other requirement can choose its version.
    subprocess.run([*pip, "-c", CONSTRAINTS, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "-r", required, "-e", ROOT], check=True)
    ready.write_text(required.read_text())


def report(program: Program) -> bool:
    """Run a program both ways, say what came of it, and tell whether something is wrong."""
    bare, watched = program.run(debug=False), program.run(debug=True)
    found = list(findings(watched.folder))
    wrong = list(faults(program, bare, watched, found))
    say(
        f"{'BAD ' if wrong else 'good'} {program.client}/{program.script.stem}"
        f" ({', '.join(versions(program))}): {bare.seconds:.0f} s bare, {watched.seconds:.0f} s on"
    )
    for where, finding in found:
        place = f"{where}: " if where else ""
        say(f"     {finding['severity']} {place}{finding['name']} at {finding['where']}")
    for line in wrong:
        say(f"     ! {line}")
    return bool(wrong)


def findings(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the findings of all trainings below a folder, each once, with where it trained."""
    for file in sorted(folder.rglob("findings.jsonl")):
        last = {finding["name"]: finding for finding in map(json.loads, file.open())}
        parts = file.parent.relative_to(folder).parts
        where = "/".join(p for p in parts if p not in ("lightning_logs", "lightning_debug"))
        for finding in last.values():
            yield where, finding


def faults(
    program: Program, bare: Run, watched: Run, found: Sequence[tuple[str, dict[str, Any]]]
) -> Iterator[str]:
    """Return what is not as it must be."""
    for run in (bare, watched):
        if run.code:
            yield f"exit code {run.code}; see {run.folder / 'log.txt'}"
    if bare.fingerprint != watched.fingerprint:
        yield "weights, metrics or random numbers are not those of the bare run"
    records = [json.loads(file.read_text()) for file in watched.folder.rglob("run.json")]
    if not records:
        yield "the debugger has watched no training"
    for record in records:
        if record["status"] != "completed" or record["failures"]:
            yield f"{record['status']} with failures: {record['failures']}"
    alarms = {f"{where}:{f['name']}" for where, f in found if f["severity"] != "info"}
    for name in sorted(alarms - set(program.explained)):
        yield f"not explained: {name}"
    for name in sorted(set(program.explained) - alarms):
        yield f"not found: {name}"


def versions(program: Program) -> list[str]:
    """Return the projects that are pinned for a client."""
    return (program.script.parent / "requirements.txt").read_text().split()


def say(text: str) -> None:
    """Print a line, now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
