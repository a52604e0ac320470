"""LightningCLI: the suite from a configuration file, from the command line, and in its help."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytorch_lightning.cli import LightningCLI

import lightning_debug
from lightning_debug import DebugSuite
from lightning_debug.checks.connections.dead_relu import DeadRelu
from lightning_debug.section import Section
from lightning_debug.sinks.console import Console
from lightning_debug.sinks.run_folder import RunFolder

FOLDER = Path(__file__).parents[2] / "examples" / "cli"


@pytest.fixture
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cli(program: ModuleType, *args: str, **settings: Any) -> LightningCLI:
    return LightningCLI(program.Classifier, program.Digits, args=list(args), **settings)


def suite_of(made: LightningCLI) -> DebugSuite:
    (suite,) = (one for one in made.trainer.callbacks if isinstance(one, DebugSuite))
    return suite


def test_the_suite_from_a_file_and_from_the_file_that_was_saved(
    program: ModuleType, tmp_path: Path
) -> None:
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    first = cli(
        program,
        *("fit", f"--config={FOLDER / 'debug.yaml'}", f"--trainer.default_root_dir={tmp_path}"),
        *("--trainer.max_epochs=1", *quiet),
    )
    suite = suite_of(first)
    assert suite.failures == {}
    assert [finding.name for finding in suite.findings] == ["parameter-not-optimized"]
    assert suite.run_folder == tmp_path / "lightning_debug"
    saved = f"--config={tmp_path / 'config.yaml'}"
    over = {"save_config_kwargs": {"overwrite": True}}
    again = suite_of(cli(program, "fit", saved, "--trainer.max_epochs=0", **over))
    for made in (suite, again):
        assert (made.every_n_steps, made.preflight) == (25, 2.0)
        assert made.ignore == ("no-scheduler",)
        (dead,) = (check for check in made.checks if isinstance(check, DeadRelu))
        assert dead.share == 0.6
        assert [type(sink) for sink in made._sinks or ()] == [Console, RunFolder]


SECTIONS = [
    name
    for name, section in vars(lightning_debug).items()
    if isinstance(section, type) and issubclass(section, Section)
]


def test_every_section_can_be_named_on_the_command_line(program: ModuleType) -> None:
    given = [f"--trainer.callbacks+=lightning_debug.{name}" for name in SECTIONS]
    trainer = cli(program, *given, "--trainer.logger=false", run=False).trainer
    found = [type(one).__name__ for one in trainer.callbacks if isinstance(one, Section)]
    assert sorted(found) == sorted(SECTIONS)


def test_the_help_tells_of_every_argument(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli(program, "--trainer.callbacks.help=lightning_debug.DebugSuite", run=False)
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in ("debug", "checks", "select", "ignore", "every_n_steps", "strict", "sinks"):
        assert f".{name} " in text
    assert "The one flag. False: nothing is attached" in text


@pytest.mark.slow
def test_the_other_package_takes_the_same_file(tmp_path: Path) -> None:
    """``lightning.pytorch`` takes no callback of ``pytorch_lightning``: the suite is both."""
    text = (FOLDER / "train.py").read_text(encoding="utf-8")
    script = tmp_path / "train.py"
    script.write_text(text.replace("pytorch_lightning", "lightning.pytorch"), encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, str(script), "fit", f"--config={FOLDER / 'debug.yaml'}"),
            *(f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "parameter-not-optimized at head.weight" in done.stdout + done.stderr
