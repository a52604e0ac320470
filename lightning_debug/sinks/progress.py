"""Says in a terminal which experiment is being made; nothing of it stays."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

ERASE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


class Progress:
    """One line on the standard error while an experiment is made, if that is a terminal.

    Not a live display of rich: the progress bar of the run may have one, or one of tqdm, which
    draws itself anew at its next step where this line has been.

    Args:
        total: Experiments that are to come, where that is known.
        skippable: Whether Ctrl-C ends the experiment and not the run.
        console: Where to write; the standard error by default.
    """

    def __init__(
        self, total: int = 0, *, skippable: bool = True, console: Console | None = None
    ) -> None:
        self._total = total
        self._skippable = skippable
        self._console = console
        self._number = 0

    @contextlib.contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        """Show the name of an experiment while it is made."""
        self._number += 1
        console = self._console or Console(stderr=True)
        if not interactive(console):
            yield
            return
        # Of what draws the bar of the run nothing may come after this line.
        sys.stdout.flush()
        # One column is left free: a full line would move the cursor to the next.
        text = Text(self._line(title), style="dim", no_wrap=True)
        text.truncate(console.width - 1, overflow="ellipsis")
        with console:  # written at once: a bar of rich is drawn by a thread of its own
            console.control(ERASE)
            console.print(text, end="")
        try:
            yield
        finally:
            console.control(ERASE)

    def _line(self, title: str) -> str:
        known = 0 < self._number <= self._total
        count = f" ({self._number} of {self._total})" if known else ""
        skip = " - Ctrl-C skips it" if self._skippable else ""
        return f"lightning_debug: experiments on a copy: {title}{count}{skip}"


def interactive(console: Console | None = None) -> bool:
    """Tell whether somebody sees a line come and go, and can interrupt it."""
    console = console or Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter
