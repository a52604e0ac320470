import io

import pytest
import rich.console

from lightning_debug.finding import Severity
from lightning_debug.sinks.console import Console
from lightning_debug.sinks.sink import RunInfo
from tests.build import finding

HOSTILE = "a\x1b[2J\x07\r\nb [red]c[/red] [/] \u202ed"


class Screen:
    """A run whose output is kept."""

    def __init__(self, *, folder=None, **settings):
        file = settings.pop("file", None) or io.StringIO()
        self.written = []
        console = rich.console.Console(**{"file": file, "width": 80, **settings})
        self.sink = Console(console)
        self.sink.start(RunInfo(write=self.written.append, folder=folder))

    @property
    def text(self):
        return "\n".join(self.written)

    def close(self, *findings, status="completed", failures=None):
        self.sink.close(list(findings), status=status, failures=failures or {})
        return self.text


def test_a_new_finding_takes_three_lines():
    screen = Screen()
    screen.sink.finding(finding(), new=True)
    assert screen.text.splitlines() == [
        "warning dead-relu at encoder.0, step 12",
        "  91 % of the units are zero for all 1024 samples.",
        "  fix: Lower the learning rate.",
    ]


def test_a_changed_finding_is_not_printed_again():
    screen = Screen()
    screen.sink.finding(finding(count=2), new=False)
    assert screen.written == []


def test_a_symptom_takes_one_line_that_names_its_cause():
    screen = Screen()
    screen.sink.finding(finding(caused_by="symmetric-init"), new=True)
    assert screen.text == "warning dead-relu at encoder.0, step 12: explained by symmetric-init"


def test_information_takes_one_line():
    screen = Screen()
    info = finding(name="unseeded-run", severity=Severity.INFO, where="", message="No seed.")
    screen.sink.finding(info, new=True)
    assert screen.text == "info unseeded-run, step 12: No seed."


def test_of_many_places_the_headline_names_the_first():
    screen = Screen()
    screen.sink.finding(finding(places=("encoder.0", "encoder.2", "encoder.4")), new=True)
    assert screen.written[0].startswith("warning dead-relu at encoder.0 and 2 more, step 12\n")


@pytest.mark.parametrize(
    ("severity", "code"), [(Severity.ERROR, "\x1b[1;31merror"), (Severity.WARNING, "\x1b[33mwarn")]
)
def test_a_terminal_shows_the_severity_in_colour(severity, code):
    screen = Screen(force_terminal=True, color_system="standard", no_color=False)
    screen.sink.finding(finding(severity=severity), new=True)
    assert code in screen.text


def test_a_file_gets_no_escape_codes():
    assert "\x1b" not in Screen().close(finding(severity=Severity.ERROR))


def test_the_table_shows_a_symptom_indented_below_its_cause():
    cause = finding(name="symmetric-init", severity=Severity.ERROR, where="head", step=0)
    text = Screen().close(cause, finding(caused_by="symmetric-init"))
    lines = [line.strip("│ \n") for line in text.splitlines()]
    assert "lightning_debug: 1 error, 1 warning; 1 of them explained by another" in lines
    below = lines[lines.index("error   │ symmetric-init at head, step 0") :]
    assert "warning │   dead-relu at encoder.0, step 12" in below
    assert "│   explained by symmetric-init; fix that first" in text


def test_the_table_shows_message_fix_and_run_folder():
    text = Screen(folder="logs/lightning_debug").close(finding())
    assert "│ 91 % of the units are zero for all 1024 samples." in text
    assert "│ fix: Lower the learning rate." in text
    assert text.endswith("\nrun folder: logs/lightning_debug")


def test_a_run_without_findings_ends_in_one_line():
    assert Screen().close() == "lightning_debug: no warnings or errors"


def test_information_alone_makes_no_table():
    info = finding(severity=Severity.INFO, message="No seed.")
    assert Screen().close(info).splitlines() == [
        "lightning_debug: no warnings or errors",
        "  info dead-relu at encoder.0, step 12: No seed.",
    ]


def test_the_end_says_how_an_interrupted_run_ended():
    assert "1 warning (KeyboardInterrupt)" in Screen().close(finding(), status="KeyboardInterrupt")


def test_the_end_says_what_was_switched_off():
    text = Screen().close(failures={"check dead-relu": "ZeroDivisionError: division by zero"})
    assert "check dead-relu (ZeroDivisionError: division by zero)" in text.replace("\n", " ")


@pytest.mark.parametrize("field", ["name", "where", "message", "fix", "caused_by"])
def test_nothing_from_the_run_is_taken_for_a_command(field):
    screen = Screen(force_terminal=True, color_system="standard", width=200)
    screen.sink.finding(finding(**{field: HOSTILE}), new=True)
    text = screen.close(finding(**{field: HOSTILE}))
    assert "a [2J b [red]c[/red] [/] d" in text
    assert not any(command in text for command in ("\x1b[2J", "\x07", "\r", "\u202e"))


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    screen = Screen(width=width, force_terminal=True, color_system=None)
    long = finding(where="a" * 300, message="word " * 60, fix="nn.init." * 40)
    screen.sink.finding(long, new=True)
    text = screen.close(long)
    assert max(map(len, text.splitlines())) <= width


def test_what_the_terminal_cannot_encode_is_spelled_out():
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    text = Screen(file=ascii_only).close(finding(where="müller"))
    assert text.isascii()
    assert "dead-relu at m\\xfcller" in text


def test_the_console_follows_a_replaced_standard_output(capsys):
    sink = Console()
    sink.start(RunInfo())
    sink.close([], status="completed", failures={})
    assert capsys.readouterr().out == "lightning_debug: no warnings or errors\n"
