"""Which code ran: asked of the ``git`` program while training goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from lightning_debug.tracking.secrets import without_secrets

MOST_SECONDS = 2.0
MOST_OF_DIFF = 100_000
MOST_NAMES = 200
# Never asks anything, never writes to the repository, and runs none of its programs.
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_ASKPASS": "", "LC_ALL": "C"}
GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
QUESTIONS = {
    "status": ("status", "--porcelain=v2", "--branch", "--untracked-files=normal"),
    "diff": ("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"),
    "remote": ("config", "--get", "remote.origin.url"),
}


class Git:
    """Asks which commit, branch and changes a folder has, and never waits for the answer.

    The answers go to files without a name, not through pipes: a loader's worker that is forked
    meanwhile would hold the end of a pipe open.

    Args:
        folder: Of the program that runs.
    """

    def __init__(self, folder: Path) -> None:
        self._asked: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        self._until = time.monotonic() + MOST_SECONDS
        if shutil.which("git"):
            for name, question in QUESTIONS.items():
                self._asked[name] = _ask(question, folder)

    @property
    def waiting(self) -> bool:
        """Tell whether an answer is still to come; one that takes too long is given up."""
        running = [process for process, _ in self._asked.values() if process.poll() is None]
        if running and time.monotonic() > self._until:
            self.stop()
            return False
        return bool(running)

    def stop(self) -> None:
        """Wait for the answers, for as long as is left, and give up those that do not come."""
        for process, _ in self._asked.values():
            try:
                process.wait(timeout=max(0.0, self._until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def answer(self) -> dict[str, Any]:
        """Return what is known; empty where there is no repository."""
        texts = {name: _read(*asked) for name, asked in self._asked.items()}
        self._asked = {}
        status = texts.get("status")
        if status is None:
            return {}
        found = _status(status)
        if remote := (texts.get("remote") or "").strip():
            found["remote"] = without_secrets(remote)[:500]
        if diff := texts.get("diff"):
            found["diff"] = _bounded(diff)
        return found


def script_folder() -> Path:
    """Return the folder of the program that runs; the working folder for an installed one."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script and not Path(script).resolve().is_relative_to(Path(sys.prefix).resolve()):
        return Path(script).resolve().parent
    return Path.cwd()


def _ask(question: tuple[str, ...], folder: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is read
    process = subprocess.Popen(
        [*GIT, *question],
        cwd=folder,
        env=os.environ | QUIET,
        stdin=subprocess.DEVNULL,
        stdout=answer,
        stderr=subprocess.DEVNULL,
    )
    return process, answer


def _read(process: subprocess.Popen[bytes], answer: IO[bytes]) -> str | None:
    """Return the start of an answer; None where there is none."""
    with answer:
        if process.poll() != 0:
            return None
        answer.seek(0)
        return answer.read(MOST_OF_DIFF + 4000).decode("utf-8", "replace")


def _status(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    changed, untracked = 0, []
    for line in text.splitlines():
        if line.startswith("# branch.oid "):
            found["commit"] = line.split()[-1]
        elif line.startswith("# branch.head "):
            found["branch"] = without_secrets(line.split(" ", 2)[2])[:200]
        elif line.startswith("? "):
            untracked.append(without_secrets(line[2:])[:200])
        elif not line.startswith("#"):
            changed += 1
    found["changed_files"] = changed
    found["dirty"] = changed > 0
    if untracked:
        found["untracked"] = untracked[:MOST_NAMES]
    return found


def _bounded(diff: str) -> str:
    """Return a diff without secrets, cut where it is too long."""
    clean = without_secrets(diff)
    if len(clean) <= MOST_OF_DIFF:
        return clean
    return f"{clean[:MOST_OF_DIFF]}\n... (cut after {MOST_OF_DIFF} characters)"
