import pytest

from lightning_debug.finding import Severity
from lightning_debug.sinks.text import encodable, tally, verdict
from tests.build import finding

INFO = finding(severity=Severity.INFO)
ERROR = finding(severity=Severity.ERROR)


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        pytest.param([], "no warnings or errors", id="nothing"),
        pytest.param([INFO], "no warnings or errors", id="a remark"),
        pytest.param([finding(), INFO], "1 warning, 1 info", id="a warning"),
        pytest.param(
            [ERROR, ERROR, finding(caused_by="x")],
            "2 errors, 1 warning; 1 of them explained by another",
            id="a symptom",
        ),
    ],
)
def test_verdict(findings, words):
    assert verdict(findings) == words


def test_a_tally_counts_remarks_too():
    assert tally([INFO, INFO]) == "2 info"


def test_what_a_terminal_cannot_show_is_spelled_out():
    assert encodable("größe \u2713", "ascii") == "gr\\xf6\\xdfe \\u2713"
    assert encodable("größe", "utf-8") == "größe"
