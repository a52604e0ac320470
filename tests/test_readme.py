"""The README tells the truth: its code runs and its table is the registry.

``python -m tests.test_readme`` writes the table anew.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from lightning_debug.registry import all_checks

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- findings: written by tests/test_readme.py -->", "<!-- end of findings -->"


def table() -> str:
    """Return the table of findings in Markdown."""
    lines = ["| Finding | Severity | Section | What is wrong |", "|---|---|---|---|"]
    for name, cls in sorted(all_checks().items(), key=lambda item: (item[1].section(), item[0])):
        summary = (inspect.getdoc(cls) or "").splitlines()[0]
        lines.append(f"| `{name}` | {cls.severity} | {cls.section()} | {summary} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """Return the README with its table written anew."""
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


def test_the_table_is_the_registry() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_table(text), "run `python -m tests.test_readme`"


def test_the_code_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
