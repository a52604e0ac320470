"""``lightning-debug run --preflight-only``: a script ends before its first update."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import sys
import torch
import {namespace} as pl
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from lightning_debug import DebugSuite

class Digits(pl.LightningDataModule):
    classes = 2
    def setup(self, stage):
        print("setup of the data", stage)
        x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(x, (x[:, 0] > 0).long())
    def train_dataloader(self):
        return DataLoader(self.data, 32, shuffle=True)

class Model(pl.LightningModule):
    def setup(self, stage):
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, self.trainer.datamodule.classes)
        )
    def training_step(self, batch, index):
        x, y = batch
        out = self.net(x)
        loss = F.cross_entropy(out.softmax(1) if "broken" in sys.argv else out, y)
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)
    def on_train_batch_end(self, *args):
        if self.trainer.logger:
            print("an update of the run")

pl.seed_everything(0)
trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    logger=pl.loggers.CSVLogger("."), callbacks=[{callbacks}], log_every_n_steps=1, {settings}
)
{before}
try:
    trainer.fit({arguments})
    print("the run is over")
finally:
    print("updates:", trainer.global_step)
"""


def run(
    folder: Path,
    *args: str,
    namespace: str = "pytorch_lightning",
    callbacks: str = "",
    settings: str = "",
    before: str = "",
    arguments: str = "Model(), datamodule=Digits()",
    program: str = PROGRAM,
) -> subprocess.CompletedProcess[str]:
    text = program.format(
        namespace=namespace,
        callbacks=callbacks,
        settings=settings,
        before=before,
        arguments=arguments,
    )
    (folder / "train.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "lightning_debug", "run", "--preflight-only", "train.py", *args],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_a_sound_script_gives_zero(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "experiments on a copy of the model" in done.stdout
    assert "no warnings or errors" in done.stdout
    assert done.stdout.endswith("updates: 0\n")
    assert "an update of the run" not in done.stdout
    assert done.stdout.count("setup of the data") == 1
    assert "Traceback" not in done.stderr
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {".py", ".yaml"}


@pytest.mark.parametrize(
    ("namespace", "callbacks"),
    [
        ("pytorch_lightning", ""),
        pytest.param("lightning.pytorch", "", marks=pytest.mark.slow),
        pytest.param(
            "pytorch_lightning",
            "DebugSuite(preflight=False, strict=True)",
            marks=pytest.mark.slow,
        ),
        pytest.param("pytorch_lightning", "DebugSuite(debug=False)", marks=pytest.mark.slow),
    ],
)
def test_a_broken_script_gives_one(tmp_path: Path, namespace: str, callbacks: str) -> None:
    done = run(tmp_path, "broken", namespace=namespace, callbacks=callbacks)
    assert done.returncode == 1
    assert "probabilities-as-logits" in done.stdout
    assert done.stdout.count("experiments on a copy of the model") == 1
    assert done.stdout.endswith("updates: 0\n")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("findings.jsonl"))


@pytest.mark.slow
def test_what_the_script_ignores_is_ignored(tmp_path: Path) -> None:
    done = run(tmp_path, "broken", callbacks="DebugSuite(ignore=['loss', 'start_simple'])")
    assert "probabilities-as-logits" not in done.stdout
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"settings": "fast_dev_run=True"}, {"settings": "accumulate_grad_batches=4"}],
    ids=["fast_dev_run", "accumulation"],
)
def test_settings_of_the_trainer(tmp_path: Path, settings: Any) -> None:
    done = run(tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert "no warnings or errors" in done.stdout
    assert done.stdout.endswith("updates: 0\n")


@pytest.mark.slow
def test_a_tuner_before_it_is_let_through(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        before=(
            "from pytorch_lightning.tuner import Tuner\n"
            "model = Model(); model.lr = 1e-3\n"
            "Tuner(trainer).lr_find(model, datamodule=Digits(), num_training=10)"
        ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("experiments on a copy of the model") == 1


@pytest.mark.slow
def test_a_script_that_swallows_the_exit(tmp_path: Path) -> None:
    swallowing = PROGRAM.replace("finally:", "except BaseException:")
    done = run(tmp_path, "broken", program=swallowing)
    assert done.returncode == 1
    assert "updates: 0" in done.stdout


def test_a_script_that_trains_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, program="print('hello')")
    assert done.returncode == 2
    assert "before any training began, so nothing was tried" in done.stderr


def test_a_script_that_fails_gives_its_own_code(tmp_path: Path) -> None:
    assert run(tmp_path, program="raise SystemExit(7)").returncode == 7
