import io

import pytest
from rich.console import Console

from lightning_debug.sinks.progress import Progress


def terminal(width=100, **settings):
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, color_system=None, **settings
    )


def test_the_line_is_gone_afterwards():
    console = terminal()
    progress = Progress(2, console=console)
    with progress("another future"):
        shown = console.file.getvalue()
    assert shown == (
        "\r\x1b[2Klightning_debug: experiments on a copy: another future (1 of 2) - Ctrl-C skips it"
    )
    assert console.file.getvalue() == shown + "\r\x1b[2K"


def test_it_is_gone_after_an_interrupt_as_well():
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Progress(console=console)("other inputs"):
        raise KeyboardInterrupt
    assert console.file.getvalue().endswith("\r\x1b[2K")


def test_more_than_were_expected_are_not_counted():
    console = terminal()
    progress = Progress(1, skippable=False, console=console)
    for _ in range(2):
        with progress("x"):
            pass
    first, second = console.file.getvalue().split("\r\x1b[2K")[1::2]
    assert first == "lightning_debug: experiments on a copy: x (1 of 1)"
    assert second == "lightning_debug: experiments on a copy: x"


def test_a_narrow_terminal_gets_no_second_line():
    console = terminal(width=40)
    with Progress(console=console)("a long name " * 9):
        pass
    assert len(console.file.getvalue().split("\r\x1b[2K")[1]) <= 39


@pytest.mark.parametrize("settings", [{"force_terminal": False}, {"force_jupyter": True}])
def test_nothing_where_nobody_sees_it_go(settings):
    console = Console(file=io.StringIO(), **settings)
    with Progress(console=console)("x"):
        pass
    assert console.file.getvalue() == ""
