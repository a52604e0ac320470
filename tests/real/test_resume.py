"""Training that goes on: from a checkpoint, or in the same trainer."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_debug import DebugSuite, GradientNorms, InitialLoss
from lightning_debug.finding import Finding, Severity
from lightning_debug.resumption import KEY, packed, unpacked
from lightning_debug.schedule import Schedule
from tests.real.test_loops import Manual, Plain, few, held_out, with_dead_relu
from tests.runs import alarms, digits, names, quiet_trainer
from tests.test_no_trace import attached

suites = partial(DebugSuite, preflight=False, sinks=[])
broken = partial(Plain, with_dead_relu)


def save(path: Path, *callbacks: pl.Callback, make: Any = Plain) -> Path:
    """Train, and return a checkpoint of the end."""
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(max_epochs=2, callbacks=list(callbacks))
    trainer.fit(make(), few())
    trainer.save_checkpoint(path / "end.ckpt")
    return path / "end.ckpt"


def resume(path: Path, *callbacks: pl.Callback, make: Any = Plain) -> None:
    """Go on from a checkpoint."""
    trainer = quiet_trainer(max_epochs=4, callbacks=list(callbacks))
    trainer.fit(make(), few(), ckpt_path=path, weights_only=True)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is said beside the findings."""
    lines: list[str] = []
    monkeypatch.setattr("lightning_debug.trainers.say", lines.append)
    return lines


class Scheduled(Plain):
    """Has a schedule that spans the run, and not a part of it."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        total = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class Halts(pl.Callback):
    """Ends the run after its second epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


@pytest.mark.parametrize(
    "make",
    [
        Plain,
        pytest.param(Scheduled, marks=pytest.mark.slow),
        pytest.param(partial(Manual, raw=True), marks=pytest.mark.slow),
    ],
    ids=["plain", "scheduled", "raw"],
)
def test_a_healthy_run_goes_on_in_silence(make: Any, tmp_path: Path) -> None:
    data, path = partial(digits, n=1024), tmp_path / "half.ckpt"
    first, second = DebugSuite(sinks=[]), DebugSuite(sinks=[])
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(max_epochs=4, callbacks=[first, Halts()])
    trainer.fit(make(), data(), held_out())
    trainer.save_checkpoint(path)
    trainer = quiet_trainer(max_epochs=4, callbacks=[second])
    trainer.fit(make(), data(), held_out(), ckpt_path=path, weights_only=True)
    for suite in (first, second):
        assert suite.failures == {}
        assert alarms(suite) == []


def test_what_was_found_before_keeps_its_step(tmp_path: Path, said: list[str]) -> None:
    first, second = suites(), suites()
    path = save(tmp_path, first, make=broken)
    assert said == []
    resume(path, second, make=broken)
    before = {finding.name: finding for finding in first.findings}
    after = {finding.name: finding for finding in second.findings}
    found = before["zero-gradient"], after["zero-gradient"]
    assert found[0].step == found[1].step < 20
    assert found[0].count < found[1].count
    (line,) = said
    assert line.startswith(
        "lightning_debug: training goes on, so the initial weights and the first loss are not"
        " judged; found before, at "
    )
    assert line.endswith(f" looks: {', '.join(f.name for f in first.findings)}")


def test_what_was_mended_is_not_told_again(tmp_path: Path) -> None:
    class Mends(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            pl_module.net[0].reset_parameters()

    suite = suites()
    path = save(tmp_path, suites(), make=broken)
    resume(path, Mends(), suite, make=broken)
    assert suite.failures == {}
    assert names(suite) == set()


def test_the_word_in_a_checkpoint_is_small_and_plain(tmp_path: Path) -> None:
    content = torch.load(save(tmp_path, suites(), make=broken), weights_only=True)
    bare = torch.load(save(tmp_path, make=broken), weights_only=True)
    assert content.keys() - bare.keys() == {KEY}
    assert content["callbacks"] == bare["callbacks"]
    assert content["state_dict"].keys() == bare["state_dict"].keys()
    assert json.loads(json.dumps(content[KEY])) == content[KEY]
    found = [
        Finding(name=str(i), severity=Severity.ERROR, message="x" * 9000, places=("y",) * 999)
        for i in range(99)
    ]
    assert len(json.dumps(packed(found, 7))) < 16_000
    assert unpacked(packed(found[:2], 7)).looks == 7
    assert list(unpacked(packed(found[:2], 7)).findings) == ["0", "1"]


def test_a_checkpoint_goes_with_the_suite_and_without(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*callbacks used to create the checkpoint")
        resume(save(tmp_path, suites()))
        suite = suites()
        resume(save(tmp_path, make=broken), suite, make=broken)
    assert "zero-gradient" in names(suite)


def test_several_suites_leave_one_word(tmp_path: Path) -> None:
    several = (suites(), suites(), GradientNorms(sinks=[]), InitialLoss(sinks=[]))
    path = save(tmp_path, *several, make=broken)
    told = unpacked(torch.load(path, weights_only=True)[KEY])
    assert told.findings.keys() == {finding.name for finding in several[0].findings}
    resume(path, *several, make=broken)
    assert all(suite.failures == {} for suite in several)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ({"version": 99}, "it is not of version 1"),
        ("?", "it is not of version 1"),
        ({"version": 1, "looks": 3}, "it is damaged"),
        ({"version": 1, "looks": 3, "findings": [{"name": "x"}]}, "it is damaged"),
        ({"version": 1, "looks": [], "findings": []}, "it is damaged"),
        (
            {"version": 1, "looks": 3, "findings": [{"severity": "bad", "name": "x"}]},
            "it is damaged",
        ),
    ],
)
def test_a_word_that_nobody_can_read_is_said_once(
    word: Any, reason: str, tmp_path: Path, said: list[str]
) -> None:
    path = tmp_path / "end.ckpt"
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(Plain(), few())
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {KEY: word}, path)
    suite = suites()
    quiet_trainer(max_steps=2, callbacks=[suite]).fit(Plain(), few(), ckpt_path=path)
    assert suite.failures == {}
    assert [reason in line for line in said] == [True, False]


def test_looks_are_dense_again_for_a_little_while() -> None:
    def looks(schedule: Schedule) -> list[int]:
        found = []
        for update in range(1000, 1200):
            if schedule.due(update):
                found.append(update)
                schedule.looked(update)
        return found

    schedule = Schedule()
    schedule.resume(1000)
    assert looks(schedule) == [*range(1000, 1008), 1057, 1107, 1157]


@pytest.mark.parametrize(
    "raw",
    [pytest.param(False, id="automatic", marks=pytest.mark.slow), pytest.param(True, id="raw")],
)
def test_several_fits_in_one_trainer(raw: bool, said: list[str]) -> None:
    """The second goes on; the model of the third is another one."""
    make = partial(Manual, raw=True) if raw else Plain
    before, suite = attached(), DebugSuite(sinks=[])
    pl.seed_everything(3, verbose=False)
    trainer = quiet_trainer(max_epochs=1, callbacks=[suite])
    model = make()
    for epochs in (1, 2, 3):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(model if epochs < 3 else make(), few(), held_out())
        assert suite.failures == {}
        assert alarms(suite) == []
        trainer.validate(model, held_out(), verbose=False)
        assert alarms(suite) == []
        assert attached() == before
    assert len(said) == 2
    assert all("training goes on" in line for line in said)
