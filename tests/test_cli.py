import json
import os
import signal
import subprocess
import sys

import pytest

from lightning_debug.cli import main
from lightning_debug.finding import Severity
from lightning_debug.registry import all_checks
from lightning_debug.sinks.run_folder import RunFolder, new_folder
from lightning_debug.sinks.sink import RunInfo
from tests.build import finding


@pytest.fixture(autouse=True)
def width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def finished_run(base, *findings, status="completed", failures=None):
    sink = RunFolder()
    folder = new_folder(base)
    sink.start(RunInfo(folder=str(folder)))
    sink.close(list(findings), status=status, failures=failures or {})
    return folder


class TestRun:
    @pytest.fixture
    def script(self, tmp_path):
        def write(text):
            path = tmp_path / "train.py"
            path.write_text(text)
            return str(path)

        return write

    def test_the_script_runs_with_the_variable_set(self, script, capfd):
        path = script("import os; print(os.environ['LIGHTNING_DEBUG'])")
        assert main(["run", path]) == 0
        assert capfd.readouterr().out == "1\n"

    def test_arguments_pass_through(self, script, capfd):
        path = script("import sys; print(sys.argv[1:])")
        main(["run", path, "--lr", "0.1", "-h", "--", "x"])
        assert capfd.readouterr().out == "['--lr', '0.1', '-h', '--', 'x']\n"

    def test_the_exit_code_is_the_script_s(self, script):
        assert main(["run", script("raise SystemExit(7)")]) == 7

    def test_a_script_ended_by_a_signal_gives_what_a_shell_gives(self, script):
        path = script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert main(["run", path]) == 128 + signal.SIGKILL

    def test_a_script_that_is_not_there(self, capsys):
        assert main(["run", "nowhere.py"]) == 2
        assert capsys.readouterr().err == "lightning-debug: there is no script 'nowhere.py'\n"

    def test_an_interrupted_script_ends_in_its_own_time(self, script):
        path = script(
            "import time\n"
            "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
            "except KeyboardInterrupt:\n    time.sleep(1)\n    print('saved', flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-m", "lightning_debug", "run", path],
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as command:
            assert command.stdout.readline() == b"ready\n"
            os.killpg(command.pid, signal.SIGINT)
            assert command.stdout.read() == b"saved\n"
        assert command.returncode == 0


def test_list_shows_every_finding(capsys):
    assert main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert all_checks()
    assert not all_checks().keys() - set(words)


class TestExplain:
    @pytest.mark.parametrize("name", ["dead-relu", "dead_relu", "DeadRelu"])
    def test_the_page_of_a_finding(self, name, capsys):
        assert main(["explain", name]) == 0
        out = capsys.readouterr().out
        check = all_checks()["dead-relu"]
        assert out.startswith(f"dead-relu {check.severity}\n\n{check.__doc__.splitlines()[0]}\n")
        for part in ("\nWhy: ", "\nSilent when: ", "\nFix: ", 'ignore=["dead-relu"]'):
            assert part in out

    @pytest.mark.parametrize("name", all_checks())
    def test_every_threshold_is_explained(self, name, capsys):
        main(["explain", name])
        table = capsys.readouterr().out.partition("\nThreshold ")[2].partition("\n\n")[0]
        head, *lines = table.splitlines()
        assert head.split() == ["Default", "Meaning"]
        rows = [line.split(maxsplit=2) for line in lines if not line.startswith(" ")]
        assert "patience" in {row[0] for row in rows}
        assert [row[0] for row in rows if len(row) < 3] == []

    def test_an_unknown_name_is_told_the_nearest(self, capsys):
        assert main(["explain", "dead-rellu"]) == 2
        assert "no finding 'dead-rellu'. Did you mean 'dead-relu'" in capsys.readouterr().err

    def test_an_unknown_name_cannot_command_the_terminal(self, capsys):
        assert main(["explain", "\x1b[2J[red]x"]) == 2
        err = capsys.readouterr().err
        assert "[red]x" in err
        assert "\x1b" not in err


class TestShow:
    def test_the_findings_of_a_run(self, tmp_path, capsys):
        folder = finished_run(tmp_path, finding(), finding(name="no-gradient", where="a[/red]"))
        assert main(["show", str(folder)]) == 0
        out = capsys.readouterr().out
        assert "lightning_debug: 2 warnings" in out
        assert "no-gradient at a[/red], step 12" in out

    def test_the_one_run_of_a_log_directory(self, tmp_path, capsys):
        finished_run(tmp_path / "version_0", status="ValueError")
        assert main(["show", str(tmp_path)]) == 0
        assert "no warnings or errors (ValueError)" in capsys.readouterr().out

    def test_the_history_of_several_runs(self, tmp_path, capsys):
        finished_run(tmp_path / "version_0", finding())
        finished_run(tmp_path / "version_1", status="ValueError")
        assert main(["show", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        lines = [line.split() for line in out.splitlines() if "version_" in line]
        assert [line[-1] for line in lines] == ["version_0", "version_1"]
        assert "warning dead-relu" in out
        assert lines[1][2] == "ValueError"
        assert out.splitlines()[-1] == "lightning-debug show RUN shows one of them."

    def test_hostile_runs_cannot_command_the_terminal(self, tmp_path, capsys):
        for number in range(2):
            finished_run(tmp_path / f"\x1b[2J{number}", finding(name="[red]x\x1b[2J"))
        assert main(["show", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "[red]x" in out
        assert "\x1b" not in out

    def test_what_was_switched_off(self, tmp_path, capsys):
        folder = finished_run(tmp_path, failures={"check dead-relu": "E: e"})
        main(["show", str(folder)])
        assert "check dead-relu (E: e)" in capsys.readouterr().out

    def test_a_folder_that_is_no_run(self, tmp_path, capsys):
        assert main(["show", str(tmp_path)]) == 2
        assert "is no run folder" in capsys.readouterr().err.replace("\n", " ")

    def test_a_terminal_without_unicode(self, tmp_path):
        folder = finished_run(tmp_path, finding(where="müller", severity=Severity.ERROR))
        shown = subprocess.run(
            [sys.executable, "-m", "lightning_debug", "show", folder],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "dead-relu at m\\xfcller" in shown.stdout


class TestDiff:
    def test_runs_that_are_alike(self, tmp_path, capsys):
        a, b = finished_run(tmp_path, finding()), finished_run(tmp_path, finding())
        assert main(["diff", str(a), str(b)]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Nothing recorded differs; there are no losses to compare.\n")
        assert f"A: {a} (completed)" in out.replace("\n", "")
        assert "not known: run B has no losses" in out

    def test_runs_that_differ(self, tmp_path, capsys):
        a = finished_run(tmp_path, finding())
        b = finished_run(tmp_path, finding(severity=Severity.ERROR), finding(name="no-gradient"))
        page = tmp_path / "diff.html"
        assert main(["diff", str(a), str(b), "--html", str(page)]) == 1
        out = capsys.readouterr().out
        assert "changed: dead-relu: warning -> error" in out
        assert "came: warning no-gradient: " in out
        assert out.endswith(f"{page}\n")
        assert "came: warning no-gradient" in page.read_text()

    def test_hostile_runs_cannot_command_the_terminal(self, tmp_path, capsys):
        bad = finding(name="[red]x", message="\x1b[2J\ud800")
        record = {"hyperparameters": {"\x1b[2J": "[/bold]\x1b]0;x\x07"}, "git": {"diff": "\x1b"}}
        a = finished_run(tmp_path)
        b = finished_run(tmp_path, bad, status="\x1b[2J")
        for folder, known in (
            (a, {"hyperparameters": {"lr": 1}, "git": {"diff": "x"}}),
            (b, record),
        ):
            (folder / "run.json").write_text(json.dumps({"record": known, "status": "\x1b[2J"}))
        assert main(["diff", str(a), str(b)]) == 1
        out = capsys.readouterr().out
        assert "[/bold]" in out
        assert "\x1b" not in out

    def test_what_is_no_run(self, tmp_path, capsys):
        run = finished_run(tmp_path / "a")
        assert main(["diff", str(run), str(tmp_path / "b")]) == 2
        assert "is no run folder" in capsys.readouterr().err.replace("\n", " ")

    def test_a_page_that_cannot_be_written(self, tmp_path, capsys):
        run = str(finished_run(tmp_path))
        assert main(["diff", run, run, "--html", str(tmp_path / "nowhere" / "x.html")]) == 2
        assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "diff"])
def test_looking_things_up_imports_neither_torch_nor_lightning(command, tmp_path):
    arguments = [command] if command == "list" else [command, *2 * [str(finished_run(tmp_path))]]
    script = (
        f"import sys; from lightning_debug.cli import main; main({arguments});"
        "sys.exit(str({'torch', 'pytorch_lightning', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "set()\n"
