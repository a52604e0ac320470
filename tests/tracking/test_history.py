"""The runs of a folder."""

import os

from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.sinks.sink import RunInfo, RunState
from lightning_debug.stored_run import read_summary
from lightning_debug.tracking import history
from tests.build import finding


def stored(folder, *, started="2026-01-02T03:04:05", findings=(), **record):
    sink = RunFolder()
    sink.start(RunInfo(folder=str(folder), record=record))
    sink._head["started"] = started
    sink.state(RunState(step=7, metrics={"acc": 0.9, "loss": 0.5, "val_loss": 0.625}))
    sink.close(list(findings), status="completed", failures={})
    return folder


def test_runs_are_found_at_any_level_but_not_too_deep(tmp_path):
    near = stored(tmp_path / "lightning_debug")
    deep = stored(tmp_path / "logs" / "lightning_logs" / "version_0" / "lightning_debug")
    stored(tmp_path / "a" / "b" / "c" / "d" / "lightning_debug")
    os.symlink(near, tmp_path / "link")
    assert set(history.find_runs(tmp_path)) == {near, deep}


def test_a_folder_without_runs(tmp_path):
    assert history.find_runs(tmp_path) == []
    assert history.find_runs(tmp_path / "nowhere") == []


def test_a_line_says_what_matters(tmp_path):
    folder = stored(
        tmp_path / "version_1" / "lightning_debug",
        findings=[finding(), finding(name="no-gradient")],
        model="Net",
        seeds={"PL_GLOBAL_SEED": 42, "seeded": True},
        git={"commit": "abcdef0123", "dirty": True},
    )
    assert history.row(read_summary(folder), tmp_path) == history.Row(
        started="01-02 03:04",
        status="completed",
        model="Net",
        updates="7",
        last="val_loss 0.625",
        findings="warning dead-relu +1",
        commit="abcdef01*",
        seed="42",
        folder="version_1",
    )


def test_what_is_not_known_is_a_dash(tmp_path):
    (tmp_path / "findings.jsonl").write_text("torn")
    row = history.row(read_summary(tmp_path), tmp_path.parent)
    assert (row.started, row.status, row.model, row.last) == ("-", "unknown", "-", "-")
    assert (row.findings, row.commit, row.seed) == ("none", "-", "-")


def test_seeds(tmp_path):
    by_hand = stored(tmp_path / "a", seeds={"PL_GLOBAL_SEED": None, "seeded": True, "torch": 5})
    nobody = stored(tmp_path / "b", seeds={"PL_GLOBAL_SEED": None, "seeded": False, "torch": 9})
    seeds = [history.row(read_summary(run), tmp_path).seed for run in (by_hand, nobody)]
    assert seeds == ["5", "none"]


def test_newest_last_and_not_too_many(tmp_path, monkeypatch):
    runs = [stored(tmp_path / str(i), started=f"2026-01-0{9 - i}") for i in range(4)]
    assert [run.folder.name for run in history.newest(runs)] == ["3", "2", "1", "0"]
    monkeypatch.setattr(history, "MOST_RUNS", 2)
    for i, run in enumerate(runs):
        os.utime(run, (i, i))
    assert [run.folder.name for run in history.newest(runs)] == ["3", "2"]
