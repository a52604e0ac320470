"""A run folder whose every text means harm."""

import dataclasses
import json

import pytest

from lightning_debug.cli import main
from lightning_debug.finding import Severity
from lightning_debug.picture import Histogram, Network, Node
from lightning_debug.report.notebook import fragment
from lightning_debug.report.page import page
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.sinks.sink import RunInfo, RunState
from lightning_debug.stored_run import read_run
from tests.build import finding
from tests.report.build import bars, experiment, image, look
from tests.report.test_page import Outline

SCRIPT = "</script><script>window.pwned = 1</script>{{ 7 * 7 }}"
IMAGE = '<img src=x onerror="window.pwned = 1">\'`'
CONTROL = "\x1b[2J\x1b]0;owned\x07\r\n\x00\u202e\u2028\ud800"
EVIL = SCRIPT + IMAGE + CONTROL
HUGE = "A" * 10_000_000
LARGEST = 2_000_000


def write(folder, evil):
    """Write a run folder in which every text is ``evil``."""
    sink = RunFolder()
    hostile = {evil: evil, "model": evil, "list": [evil, {evil: [evil]}], "trainer": {evil: evil}}
    sink.start(RunInfo(folder=str(folder), record=hostile))
    names = [f"{kind}{evil}" for kind in "ab"]
    for name in ("dead-relu", evil):
        sink.finding(
            finding(
                name=name,
                severity=Severity.ERROR,
                **dict.fromkeys(("message", "where", "why", "fix"), evil),
                places=(evil, evil),
                evidence={evil: evil, "share": 0.5},
            ),
            new=True,
        )
    sink.finding(finding(name=f"c{evil}", caused_by=evil), new=True)
    layers = {metric: dict.fromkeys(names, 1.0) for metric in ("gradient-norm", "dead-share", evil)}
    sink.look(look(0, layers=layers, scalars={evil: 1.0, f"learning-rate/{evil}": 0.1}))
    nodes = tuple(Node(name=name, kind=evil) for name in names)
    sink.picture(Network(nodes=nodes, edges=((names[0], names[1]),)))
    sink.picture(image(**dict.fromkeys(("kind", "place", "caption"), evil)))
    sink.picture(bars(**dict.fromkeys(("kind", "place", "caption"), evil), labels=(evil, evil)))
    sink.picture(Histogram(kind=evil, place=evil, step=0, low=0.0, high=1.0, counts=(1,)))
    tried = experiment(name=evil, outcome=evil, detail=evil, findings=(evil,))
    looked = {evil: 3, "dead-relu": 3}
    sink.state(RunState(step=3, looked=looked, experiments=(tried,), metrics={evil: 1.0}))
    sink.close([], status=evil, failures={evil: evil, "check dead-relu": evil})
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "run", EVIL)


def test_nothing_is_injected(folder):
    text = page(read_run(folder))
    outline = Outline(text)
    assert outline.open == []
    assert not any("onerror" in attributes for _, attributes in outline.elements)
    assert all(attributes["src"].startswith("data:") for attributes in outline.tags("img"))
    assert "<script>window.pwned" not in text
    assert "window.pwned = 1" in outline.text
    assert "{{ 7 * 7 }}" in outline.text
    assert outline.text.isprintable()


def test_the_texts_are_data_of_the_page(folder):
    found = page(read_run(folder)).partition('id="run-data">')[2].partition("</script>")[0]
    assert "pwned" in found
    json.loads(found)


def test_the_notebook_escapes(folder):
    run = read_run(folder)
    text = fragment(EVIL, run.findings, run.experiments, failures={EVIL: EVIL}, report=folder)
    assert Outline(text).tags("script") == Outline(text).tags("img") == []
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_the_terminal_stays_clean(folder, capsys):
    assert main(["show", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "window.pwned" in out
    assert not [c for c in out if not c.isprintable() and c != "\n"]


def test_a_huge_text_does_not_make_a_huge_page(tmp_path):
    run = read_run(write(tmp_path / "run", "<" * 300_000))
    assert len(page(run)) < LARGEST
    # The rest of the fields at once would make a folder of a gigabyte.
    told = dataclasses.replace(run.findings[0], message=HUGE, fix=HUGE, why=HUGE, where=HUGE)
    assert len(page(dataclasses.replace(run, findings=[told]))) < LARGEST


def test_foreign_lines_are_counted_and_left_out(folder):
    for name in ("findings.jsonl", "stats.jsonl", "pictures.jsonl"):
        with open(folder / name, "ab") as file:
            file.write(b'\xff\xfe\n[1]\n{"name": 3}\n{"torn": ')
    (folder / "network.json").write_bytes(b"\x80\x04\x95")  # as a pickle begins
    assert (
        "13 lines or entries in the run folder could not be read"
        in Outline(page(read_run(folder))).text
    )
