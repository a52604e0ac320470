"""The callbacks as a user meets them: the flag, the arguments, the errors, both namespaces."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_debug import DebugSuite, GradientNorms, TrainingBugError, UpdateRatios
from lightning_debug.checks.connections.dead_relu import DeadRelu
from lightning_debug.sinks.memory import Memory
from tests.runs import Program, digits, fit, names, quiet_trainer


def dead() -> Program:
    program = Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    nn.init.constant_(program.net[0].bias, -50.0)
    return program


def halved() -> Program:
    """Half of the hidden units are dead: fewer than the default share."""
    program = Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    with torch.no_grad():
        program.net[0].bias[:19] = -50.0
    return program


def measuring(**arguments: Any) -> DebugSuite:
    """Return a suite without experiments: they take longer than these trainings."""
    return DebugSuite(preflight=False, sinks=[], **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ignore": ["dead-rellu"]}, ValueError, "'dead-rellu'.*Did you mean 'dead-relu'"),
        ({"select": ["conections"]}, ValueError, "select.*'connections'"),
        ({"select": "dead-relu"}, TypeError, "list of strings"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps=0.*at least 1"),
        ({"every_n_steps": 2.5}, ValueError, "every_n_steps=2.5"),
        ({"strict": "warnings"}, ValueError, "strict='warnings'"),
        ({"preflight": "often"}, ValueError, "preflight='often'"),
        ({"preflight": -1}, ValueError, "preflight=-1"),
        ({"preflight": None}, ValueError, "preflight=None"),
        ({"debug": "False"}, TypeError, "debug='False'"),
        ({"checks": [DeadRelu]}, TypeError, "not a Check instance"),
        ({"sinks": ["console"]}, TypeError, "not a Sink"),
    ],
)
def test_wrong_arguments_raise_at_construction(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        DebugSuite(**arguments)


def test_debug_false_measures_nothing() -> None:
    memory = Memory()
    suite = fit(dead, digits(), suite=DebugSuite(debug=False, sinks=[memory]))
    assert suite.findings == []
    assert memory.scalars == []


class Cube(torch.autograd.Function):
    """Forgets the gradient that comes in."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 / 1000


class Cubed(Program):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net[1](Cube.apply(self.net[0](x)))
        return out


def cubed() -> Program:
    return Cubed(nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10)))


def test_experiments_can_be_switched_off() -> None:
    assert "wrong-gradient" in names(fit(cubed, digits(), epochs=1))
    suite = fit(cubed, digits(), suite=DebugSuite(preflight=False, sinks=[]), epochs=1)
    assert "wrong-gradient" not in names(suite)


def test_experiments_that_do_not_fit_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lightning_debug.experiments.replica._free_memory", lambda device: 0.0)
    with caplog.at_level("INFO", logger="lightning_debug"):
        suite = fit(cubed, digits(), epochs=1)
    assert "wrong-gradient" not in names(suite)
    assert "no GradientCheck at step 0: a copy would take 0.0 GiB of 0.0" in caplog.text


def test_ignore_takes_names_sections_and_places() -> None:
    assert "dead-relu" in names(fit(dead, digits(), suite=measuring()))
    for pattern in ("dead-relu", "connections", "dead-relu:net.*"):
        suite = fit(dead, digits(), suite=measuring(ignore=[pattern]))
        assert "dead-relu" not in names(suite)
    suite = fit(dead, digits(), suite=measuring(ignore=["dead-relu:encoder.*"]))
    assert "dead-relu" in names(suite)


def test_select_takes_names_and_places() -> None:
    suite = fit(dead, digits(), suite=DebugSuite(select=["zero-gradient:*.bias"], sinks=[]))
    assert [f.name for f in suite.findings] == ["zero-gradient"]
    assert suite.findings[0].places == ("net.0.bias",)


def test_a_check_with_thresholds_of_ones_own_replaces_the_default() -> None:
    assert "dead-relu" not in names(fit(halved, digits(), suite=measuring()))
    suite = measuring(checks=[DeadRelu(share=0.5)])
    assert "dead-relu" in names(fit(halved, digits(), suite=suite))


def test_strict_raises_with_the_report() -> None:
    with pytest.raises(TrainingBugError, match=r"zero-gradient at net\.0\.weight.*Fix: "):
        fit(dead, digits(), suite=measuring(strict=True))
    warns = measuring(strict="warning", select=["dead-relu"])
    with pytest.raises(TrainingBugError, match=r"dead-relu at net\.1: .*Fix: "):
        fit(dead, digits(), suite=warns)
    only_warns = measuring(strict=True, select=["dead-relu"])
    assert names(fit(dead, digits(), suite=only_warns)) == {"dead-relu"}


def test_sections_show_their_own_findings() -> None:
    gradients, updates = GradientNorms(sinks=[]), UpdateRatios()
    quiet_trainer(callbacks=[gradients, updates]).fit(dead(), digits())
    assert [f.name for f in gradients.findings] == ["zero-gradient"]
    assert updates.findings == []


def test_one_suite_for_two_trainers_starts_afresh() -> None:
    suite = DebugSuite(sinks=[])
    fit(cubed, digits(), suite=suite, epochs=1)
    assert suite.findings
    healthy = Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    fit(lambda: healthy, digits(), suite=suite, epochs=1)
    assert suite.findings == []


def test_fast_dev_run_and_evaluation_alone_write_nothing(tmp_path: Path) -> None:
    class Validates(Program):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", self.loss(self(batch[0]), batch[1]))

        test_step = validation_step

        def predict_step(self, batch: Any) -> Any:
            return self(batch[0])

    suite = DebugSuite()
    model = Validates(nn.Linear(64, 10))
    trainer = quiet_trainer(callbacks=[suite], fast_dev_run=True, default_root_dir=tmp_path)
    trainer.fit(model, digits(), digits())
    trainer = quiet_trainer(callbacks=[suite], default_root_dir=tmp_path, limit_val_batches=2)
    trainer.validate(model, digits(), verbose=False)
    trainer.test(model, digits(), verbose=False)
    trainer.predict(model, digits())
    assert list(tmp_path.iterdir()) == []


def test_the_run_folder_lies_in_the_log_dir(tmp_path: Path) -> None:
    suite = DebugSuite(preflight=False)
    quiet_trainer(callbacks=[suite], default_root_dir=tmp_path).fit(dead(), digits())
    files = {path.name for path in (tmp_path / "lightning_debug").iterdir()}
    assert files >= {"run.json", "findings.jsonl", "stats.jsonl"}
    assert suite.run_folder == tmp_path / "lightning_debug"


SCRIPT = """
    import json, os, sys, torch
    {imports} as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        def training_step(self, batch, i):
            x, y = batch
            logits = self.head(torch.relu(self.body(x)))
            return torch.nn.functional.cross_entropy(logits, y)
        def configure_optimizers(self):
            return torch.optim.Adam(self.head.parameters())

    for folder, variable, callbacks in json.loads(sys.argv[1]):
        print(f"== {{folder}}", flush=True)
        os.environ |= {{"LIGHTNING_DEBUG": "1"}} if variable else {{}}
        torch.manual_seed(0)
        data = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,))), 8)
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, callbacks=eval(callbacks))
        trainer.fit(Model(), data)
"""
LIST = "[pl.callbacks.Timer()]"
BARE = "pl.callbacks.Timer()"
OURS = "[__import__('lightning_debug').DebugSuite()]"
OURS_OFF = "[__import__('lightning_debug').DebugSuite(debug=False)]"


@pytest.mark.parametrize("imports", ["import pytorch_lightning", "import lightning.pytorch"])
def test_the_environment_switches_it_on(tmp_path: Path, imports: str) -> None:
    runs = [
        ("without the variable", False, "None"),
        ("no callbacks", True, "None"),
        ("a list", True, LIST),
        ("one bare callback", True, BARE),
        ("our callback", True, OURS),
        ("our callback, switched off", True, OURS_OFF),
    ]
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT.format(imports=imports)))
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "", "HOME": str(tmp_path), "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    parts = re.split("^== (.*)$", done.stdout, flags=re.MULTILINE)
    output = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert "lightning_debug" not in parts[0] + output.pop("without the variable")
    assert not (tmp_path / "without the variable").exists()
    assert "not-optimized" not in output.pop("our callback, switched off")
    assert len(output) == 4
    for folder, said in output.items():
        assert said.count("parameter-not-optimized") >= 1
        assert (tmp_path / folder / "lightning_debug" / "run.json").exists()
        assert not (tmp_path / folder / "lightning_debug_1").exists()


def test_a_variable_that_is_neither_on_nor_off_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DEBUG", "maybe")
    with pytest.raises(ValueError, match="LIGHTNING_DEBUG='maybe' is neither on"):
        pl.Trainer(accelerator="cpu", logger=False)
