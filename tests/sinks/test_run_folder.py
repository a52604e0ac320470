import json
import math
import os
import signal
import subprocess
import sys

import pytest

from lightning_debug.experiment import Experiment
from lightning_debug.finding import Severity
from lightning_debug.look import Look
from lightning_debug.sinks.run_folder import RunFolder, new_folder
from lightning_debug.sinks.sink import RunInfo, RunState
from lightning_debug.stored_run import find_run, read_run
from tests.build import finding

HOSTILE = 'a\x1b[2J\x00\n{"name": "x"}\u2028\ud800 </script> [red]'


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "lightning_debug"


@pytest.fixture
def sink(folder):
    sink = RunFolder()
    sink.start(RunInfo(folder=str(folder), record={"lr": 0.1, "name": HOSTILE}))
    return sink


def strict_json(path):
    """Return the objects of a file, and fail on what only Python takes for JSON."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def close(sink, *findings, status="completed", failures=None):
    sink.close(list(findings), status=status, failures=failures or {})


class TestWriting:
    def test_a_run_that_has_not_ended_says_so(self, sink, folder):
        run = json.loads((folder / "run.json").read_text())
        assert run["status"] == "running"
        assert run["record"]["lr"] == 0.1

    def test_the_end_is_written(self, sink, folder):
        symptom = finding(name="zero-gradient", caused_by="dead-relu")
        close(sink, finding(), symptom, status="KeyboardInterrupt", failures={"tap": "E: e"})
        run = json.loads((folder / "run.json").read_text())
        assert run["status"] == "KeyboardInterrupt"
        assert run["failures"] == {"tap": "E: e"}
        assert run["counts"] == {"warning": 2}
        assert run["started"] <= run["ended"]

    def test_nothing_else_is_left_in_the_folder(self, sink, folder):
        sink.finding(finding(), new=True)
        sink.look(Look(step=1, epoch=0, scalars={"a": 1.0}))
        close(sink, finding())
        assert sorted(os.listdir(folder)) == ["findings.jsonl", "run.json", "stats.jsonl"]

    def test_a_changed_finding_gets_a_new_line(self, sink, folder):
        sink.finding(finding(), new=True)
        sink.finding(finding(count=5), new=False)
        assert [line["count"] for line in strict_json(folder / "findings.jsonl")] == [1, 5]

    def test_an_unchanged_finding_is_not_written_again_at_the_end(self, sink, folder):
        sink.finding(finding(), new=True)
        close(sink, finding())
        assert len(strict_json(folder / "findings.jsonl")) == 1

    def test_a_count_that_grew_unseen_is_written_at_the_end(self, sink, folder):
        sink.finding(finding(), new=True)
        close(sink, finding(count=9))
        assert read_run(folder).findings == [finding(count=9)]

    def test_numbers_that_json_lacks_are_words(self, sink, folder):
        sink.look(Look(step=1, epoch=0, scalars={"a": math.nan, "b": math.inf, "c": -math.inf}))
        [line] = strict_json(folder / "stats.jsonl")
        assert line["scalars"] == {"a": "nan", "b": "inf", "c": "-inf"}

    def test_a_record_of_any_objects_can_be_written(self, folder):
        sink = RunFolder()
        sink.start(RunInfo(folder=str(folder), record={"a": {1: (object, {2.5})}, "b": math.nan}))
        record = json.loads((folder / "run.json").read_text())["record"]
        assert record == {"a": {"1": ["<class 'object'>", [2.5]]}, "b": "nan"}

    def test_without_a_folder_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        sink = RunFolder()
        sink.start(RunInfo(folder=None))
        sink.finding(finding(), new=True)
        sink.look(Look(step=1, epoch=0, scalars={"a": 1.0}))
        close(sink, finding())
        assert os.listdir(tmp_path) == []


class TestReading:
    def test_what_was_written_is_read_back(self, sink, folder):
        told = finding(
            evidence={"share": 0.91, "low": -math.inf, "kind": "relu"}, places=("a", "b")
        )
        sink.finding(told, new=True)
        sink.look(Look(step=1, epoch=0, scalars={"a": 1.5, "b": math.inf}))
        close(sink, told)
        run = read_run(folder)
        assert run.findings == [told]
        assert [(look.step, look.epoch, look.scalars) for look in run.stats] == [
            (1, 0, {"a": 1.5, "b": math.inf})
        ]
        assert run.record["status"] == "completed"

    def test_nan_is_read_back(self, sink, folder):
        sink.finding(finding(evidence={"loss": math.nan}), new=True)
        sink.look(Look(step=1, epoch=0, scalars={"a": math.nan}))
        run = read_run(folder)
        assert math.isnan(run.findings[0].evidence["loss"])
        assert math.isnan(run.stats[0].scalars["a"])

    @pytest.mark.parametrize("field", ["name", "where", "message", "fix"])
    def test_hostile_text_is_read_back_as_it_was(self, sink, folder, field):
        sink.finding(finding(**{field: HOSTILE}), new=True)
        assert getattr(read_run(folder).findings[0], field) == HOSTILE

    def test_the_worst_comes_first(self, sink, folder):
        sink.finding(finding(), new=True)
        sink.finding(finding(name="zero-gradient", severity=Severity.ERROR), new=True)
        assert [found.name for found in read_run(folder).findings] == ["zero-gradient", "dead-relu"]

    @pytest.mark.parametrize("keep", range(1, 60, 7))
    def test_a_torn_last_line_is_left_out(self, sink, folder, keep):
        sink.finding(finding(), new=True)
        sink.look(Look(step=1, epoch=0, scalars={"a": 1.0}))
        for name in ("findings.jsonl", "stats.jsonl"):
            line = (folder / name).read_bytes()
            (folder / name).write_bytes(line + line[: min(keep, len(line) - 2)])
        run = read_run(folder)
        assert run.findings == [finding()]
        assert len(run.stats) == 1

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param("[]", id="no object"),
            pytest.param("[" * 100_000, id="nested without end"),
            pytest.param('{"severity": "error", "message": "m"}', id="no name"),
            pytest.param('{"name": "n", "severity": "fatal", "message": "m"}', id="severity"),
            pytest.param('{"name": "n", "severity": "error", "message": 5}', id="message"),
            pytest.param(
                '{"name": "n", "severity": "error", "message": "m", "step": "1"}', id="step"
            ),
            pytest.param(
                '{"name": "n", "severity": "error", "message": "m", "step": 1%s}' % ("0" * 400),
                id="a step that no run counts to",
            ),
            pytest.param("\x00\ufffd", id="bytes"),
        ],
    )
    def test_a_line_that_is_no_finding_is_left_out(self, sink, folder, line):
        (folder / "findings.jsonl").write_text(line + "\n")
        sink.finding(finding(), new=True)
        assert read_run(folder).findings == [finding()]

    @pytest.mark.parametrize(
        "line",
        [
            '{"step": 1, "epoch": 0}',
            '{"step": 1e999, "epoch": 0, "scalars": {}}',
            '{"step": 1%s, "epoch": 0, "scalars": {}}' % ("0" * 400),
            '{"step": 1, "epoch": 0, "scalars": {}, "losses": [[1%s, 0.5]]}' % ("0" * 400),
            '{"step": 1, "epoch": 0, "scalars": {"a": "much"}}',
            '{"step": 1, "epoch": 0, "scalars": [1]}',
        ],
    )
    def test_a_line_that_is_no_look_is_left_out(self, sink, folder, line):
        (folder / "stats.jsonl").write_text(line + "\n")
        sink.look(Look(step=2, epoch=0, scalars={"a": 1.0}))
        assert [look.step for look in read_run(folder).stats] == [2]

    def test_missing_files_are_empty(self, sink, folder):
        run = read_run(folder)
        assert (run.findings, run.stats) == ([], [])

    def test_a_torn_run_json_leaves_the_findings(self, sink, folder):
        sink.finding(finding(), new=True)
        (folder / "run.json").write_text('{"status": "run')
        run = read_run(folder)
        assert (run.record, run.findings) == ({}, [finding()])

    @pytest.mark.parametrize("name", ["", "nowhere"])
    def test_a_folder_of_something_else_is_refused(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"is no run folder: expected .*run\.json") as error:
            read_run(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


class TestFolders:
    def test_the_first_has_no_number(self, tmp_path):
        assert new_folder(tmp_path / "logs") == tmp_path / "logs" / "lightning_debug"

    def test_an_older_run_is_never_overwritten(self, tmp_path):
        folders = [new_folder(tmp_path) for _ in range(3)]
        names = ["lightning_debug", "lightning_debug_1", "lightning_debug_2"]
        assert [folder.name for folder in folders] == names

    def test_a_file_of_that_name_is_left_alone(self, tmp_path):
        (tmp_path / "lightning_debug").write_text("mine")
        assert new_folder(tmp_path).name == "lightning_debug_1"

    def test_the_newest_run_of_a_log_directory_is_found(self, tmp_path):
        for age in (30, 10, 20):
            folder = new_folder(tmp_path)
            RunFolder().start(RunInfo(folder=str(folder)))
            os.utime(folder / "run.json", (1e9 - age, 1e9 - age))
        assert find_run(tmp_path).name == "lightning_debug_1"


WRITER = """
import sys
from lightning_debug.look import Look
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.sinks.sink import RunInfo
from tests.build import finding
sink = RunFolder()
sink.start(RunInfo(folder=sys.argv[1]))
for step in range(10**9):
    sink.look(Look(step=step, epoch=0, scalars={f"gradient-norm/{i}": 0.1 * i for i in range(300)}))
    sink.finding(finding(count=step), new=False)
    if step == 50:
        print("ready", flush=True)
"""


def test_no_secret_that_is_quoted_is_written(folder, sink):
    secret = "hunter2-swordfish"
    quoted = f'login(password="{secret}") at ~/train.py:4'
    sink.finding(finding(message=quoted, evidence={"line": quoted, "count": 3.0}), new=True)
    tried = Experiment(name="one", outcome="not applicable", detail=quoted)
    sink.state(RunState(experiments=(tried,)))
    sink.close([], status="completed", failures={"a part": quoted})
    assert not [file for file in folder.iterdir() if secret in file.read_text()]
    assert "train.py:4" in read_run(folder).findings[0].message
    assert read_run(folder).findings[0].evidence["count"] == 3.0


def test_a_killed_run_can_be_read(folder):
    with subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGKILL)
    record = read_run(folder)
    assert record.record["status"] == "running"
    assert [look.step for look in record.stats] == list(range(len(record.stats)))
    assert len(record.stats) > 50
    [found] = record.findings
    assert found.count in (len(record.stats) - 1, len(record.stats) - 2)
