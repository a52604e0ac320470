"""Two runs compared."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lightning_debug.finding import Severity
from lightning_debug.look import Look
from lightning_debug.report import diff_page
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.sinks.sink import RunInfo, RunState
from lightning_debug.stored_run import read_run
from lightning_debug.tracking import terminal
from lightning_debug.tracking.diff import compare
from tests.build import finding

HOSTILE = '<script>alert(1)</script>"\x1b[2J\ud800'


def record(*, lr=0.1, seed=1, commit="a" * 40, diff="", torch="2.6.0", data="d0", **others):
    weights = {"architecture": "m0", "initial_weights": f"w{seed}"}
    return {
        "command": ["train.py", "--lr", str(lr)],
        "model": "Net",
        "hyperparameters": {"model": {"lr": lr, "depth": 3}},
        "optimizers": [{"class": "SGD", "groups": [{"lr": lr}]}],
        "seeds": {"PL_GLOBAL_SEED": seed, "seeded": seed is not None, "torch": seed or 2**60},
        "git": {"commit": commit, "dirty": bool(diff)} | ({"diff": diff} if diff else {}),
        "packages": {"torch": torch, "numpy": "2.0"},
        "data": {"fingerprint": f"f{seed}", "training": [{"samples": 10, "dataset": data}]},
        "weights": weights,
        "environment": {"OMP_NUM_THREADS": "1"},
    } | others


def losses(*, slope=0.0, start=0, n=40):
    return [(s, 2.0 - 0.01 * s + slope * max(0, s - start)) for s in range(n)]


def stored(folder, made=None, *, values=None, findings=(), metrics=None, layers=1.0):
    sink = RunFolder()
    sink.start(RunInfo(folder=str(folder), record=record() if made is None else made))
    for item in findings:
        sink.finding(item, new=True)
    values = losses() if values is None else values
    metric = {"gradient-norm": {"net.0": layers, "net.1": 1.0}}
    sink.look(Look(step=0, epoch=0, layers=metric, losses=tuple(values)))
    sink.state(RunState(step=len(values), metrics=metrics or {}))
    sink.close(list(findings), status="completed", failures={})
    return read_run(folder)


@pytest.fixture
def against(tmp_path):
    """Return a function that compares a plain run with one that differs."""

    def compared(*arguments, **settings):
        return compare(stored(tmp_path / "a"), stored(tmp_path / "b", *arguments, **settings))

    return compared


def test_identical_runs(against):
    found = against()
    assert found.verdict == (
        "Identical runs: nothing recorded differs, and the losses are the same."
    )
    assert found.alike
    assert found.changes == {}
    assert found.findings == found.patch == found.missing == ()
    assert found.layer is None


def test_another_learning_rate(against):
    found = against(record(lr=0.5), values=losses(slope=0.2, start=3), layers=2.0)
    assert found.verdict == (
        "Same code, data, model and seed; lr differs (0.1 -> 0.5); the losses part at step 4."
        " Run A ends lower: 1.62 against 8.53."
    )
    assert not found.alike
    names = [change.name for change in found.changes["parameters"]]
    assert names == ["command", "hyperparameters.model.lr", "optimizers.0.groups.0.lr"]
    assert (found.layer.step, found.layer.layer, found.layer.values) == (0, "net.0", (1.0, 2.0))


def test_another_seed(against):
    found = against(record(seed=2), values=losses(slope=1e-3))
    assert found.verdict.startswith("Same code, data and model; the seed differs (1 -> 2); ")
    assert found.changes.keys() == {"data", "model", "seed"}


def test_neither_is_seeded(tmp_path):
    a = stored(tmp_path / "a", record(seed=None))
    b = stored(tmp_path / "b", record(seed=None, seeds={"seeded": False, "torch": 2**61}))
    assert "neither run is seeded" in compare(a, b).verdict


def test_nothing_differs_and_yet_the_losses_part(against):
    found = against(values=losses(slope=0.2))
    assert found.verdict.startswith(
        "Nothing recorded differs, yet the losses part at step 1: something is not seeded"
    )
    assert not found.alike


def test_another_command_line_alone_is_no_difference(against):
    found = against(record(command=["train.py", "--out", "b"]))
    assert "nothing recorded differs but the command line" in found.verdict
    assert found.alike


def test_a_package_that_one_run_has_loaded_is_shown_and_no_difference(against):
    found = against(record(packages={"torch": "2.6.0", "numpy": "2.0", "jinja2": "3.1"}))
    assert found.alike
    [change] = found.changes["packages"]
    assert (change.name, change.values) == ("packages.jinja2", (None, "3.1"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"commit": "b" * 40}, "the code differs (commit aaaaaaaa -> bbbbbbbb)"),
        ({"diff": "+x = 1"}, "uncommitted code differs"),
        ({"torch": "2.7.0"}, "packages differ: torch (2.6.0 -> 2.7.0)"),
        ({"data": "d1"}, "the data differ: dataset (d0 -> d1)"),
        ({"model": "Wide"}, "the model differs: model (Net -> Wide)"),
        ({"environment": {"OMP_NUM_THREADS": "4"}}, "the environment differs: OMP_NUM_THREADS"),
        ({"hyperparameters": {"model": {"lr": 0.1}}}, "depth differs (3 -> -)"),
        ({"determinism": {"benchmark": True}}, "Identical runs"),
    ],
)
def test_what_else_can_differ(against, change, said):
    assert said in against(record(**change)).verdict


def test_uncommitted_changes_are_compared(against):
    found = against(record(diff="+x = 1\n+y = 2"))
    assert found.patch[-2:] == ("++x = 1", "++y = 2")
    [change] = [c for c in found.changes["code"] if c.name == "git.diff"]
    assert change.values[0] is None
    assert change.values[1].startswith("sha256 ")


def test_findings_that_came_went_and_changed(tmp_path):
    shared = finding(name="no-gradient")
    a = stored(tmp_path / "a", findings=[shared, finding(), finding(name="zero-gradient")])
    worse = finding(severity=Severity.ERROR)
    b = stored(tmp_path / "b", findings=[shared, worse, finding(name="initial-loss")])
    found = {change.name: change.findings for change in compare(a, b).findings}
    assert found.keys() == {"dead-relu", "zero-gradient", "initial-loss"}
    assert [f.severity for f in found["dead-relu"]] == [Severity.WARNING, Severity.ERROR]
    assert found["zero-gradient"][1] is None
    assert found["initial-loss"][0] is None


def test_final_metrics_side_by_side(tmp_path):
    a = stored(tmp_path / "a", metrics={"loss": 0.5, "acc": 0.9})
    b = stored(tmp_path / "b", metrics={"loss": 0.25})
    found = [(change.name, change.values) for change in compare(a, b).metrics]
    assert found == [("acc", (0.9, None)), ("loss", (0.5, 0.25))]


def test_a_run_that_is_shorter(against):
    found = against(values=losses(n=30))
    assert found.verdict.endswith("Run A has 40 losses and run B 30.")
    assert not found.alike


def test_an_old_run_and_a_new_one(against):
    found = against({"model": "Net", "packages": {"torch": "2.6.0", "numpy": "2.0"}})
    assert found.missing == ("run B has no record of its code, data, model and seed",)
    assert found.changes == {}


def test_a_torn_run(tmp_path):
    a = stored(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text('{"status": "runn')
    (tmp_path / "b" / "stats.jsonl").write_text('{"step": 1, "ep')
    found = compare(a, read_run(tmp_path / "b"))
    assert found.verdict == "Nothing recorded differs; there are no losses to compare."
    assert found.missing == (
        "run B has no record of what ran",
        "run B has no losses",
        "run B has 2 lines that are torn or none of ours",
    )
    assert found.status == ("completed", "unknown")


@pytest.mark.parametrize("foreign", [[], {"record": 3}, {"record": {"git": 4, "seeds": "x"}}])
def test_foreign_records(tmp_path, foreign):
    a = stored(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text(json.dumps(foreign))
    assert compare(a, read_run(tmp_path / "b")).verdict


class TestPage:
    def test_it_shows_the_comparison_and_needs_nothing_else(self, tmp_path, against):
        found = against(record(lr=0.5), values=losses(slope=0.2, start=3), layers=2.0)
        path = diff_page.write(found, tmp_path / "diff.html")
        text = path.read_text()
        assert "lr differs (0.1 -&gt; 0.5)" in text
        assert text.count("<path") == 2
        assert "hyperparameters.model.lr" in text
        assert "<script" not in text
        assert "http" not in text.replace("http-equiv", "")
        assert list(Path(tmp_path).glob("*.tmp")) == []

    def test_texts_of_any_length_are_cut(self, against):
        long = "x" * 1_000_000
        bad = record(hyperparameters={"model": {long: long}}, seeds={long: long})
        bad["git"]["diff"] = long
        found = against(bad, findings=[finding(name=long, message=long)], metrics={long: 1.0})
        assert len(found.verdict) < 500
        assert len(diff_page.page(found)) < 60_000
        console = Console(file=io.StringIO(), width=100)
        console.print(terminal.comparison(found))
        assert len(console.file.getvalue()) < 10_000

    def test_hostile_names_and_values_are_only_text(self, against):
        bad = record(hyperparameters={"model": {HOSTILE: HOSTILE}}, command=[HOSTILE])
        bad["git"]["diff"] = HOSTILE
        text = diff_page.page(
            against(bad, findings=[finding(name=HOSTILE, message=HOSTILE)], metrics={HOSTILE: 1.0})
        )
        assert "<script" not in text
        assert "\x1b" not in text
        assert text.encode()

    @pytest.mark.parametrize("values", [[], [(3, 1.0)], [(0, float("nan"))], [(0, 1.0), (1, 1e30)]])
    def test_any_curve_can_be_drawn(self, against, values):
        assert "nan" not in diff_page.page(against(values=values)).split("<path")[-1][:200]
