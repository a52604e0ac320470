"""Several processes train together: one list of findings, no trace, and nobody waits for ever."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from lightning_debug import DebugSuite
from lightning_debug.look import Look
from lightning_debug.sinks.sink import Sink
from lightning_debug.taps.ranks import RankTap
from tests.processes import ddp, fit_in_two, in_processes
from tests.runs import Program, alarms, digits, names, places, quiet_trainer


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), *mlp()[1:])


def short() -> Any:
    return digits(n=320, batch=16)


class Keep(Sink):
    """Keeps the numbers of each look."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    def look(self, look: Look) -> None:
        self.looks.append(look)


class Breaks(Program):
    """Divides by zero in the second process, once."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        if self.global_rank == 1 and self.global_step == 7:
            loss = loss + torch.log(0.0 * loss)
        return loss


def test_what_only_one_process_sees_is_told_with_its_rank() -> None:
    suite = fit_in_two(lambda: Breaks(mlp()), short(), max_epochs=2)
    assert {"non-finite-loss", "non-finite-gradient"} <= names(suite)
    first, *others = suite.findings
    assert (first.name, first.evidence["rank"], first.step) == ("non-finite-loss", "1", 7)
    assert first.message.startswith("On rank 1: ")
    assert {finding.caused_by for finding in others} == {"non-finite-loss"}


def test_what_all_see_is_told_once() -> None:
    net = mlp()
    nn.init.constant_(net[0].bias, -50.0)
    suite = fit_in_two(lambda: Program(net), short(), max_epochs=2)
    assert [f.name for f in suite.findings].count("dead-relu") == 1
    assert "rank" not in next(f for f in suite.findings if f.name == "dead-relu").evidence


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.5}, {"precision": "bf16-mixed"}],
)
def test_healthy_training_is_quiet(settings: dict[str, Any]) -> None:
    assert not alarms(fit_in_two(lambda: Program(mlp()), short(), max_epochs=3, **settings))


class Talks(Program):
    """Asks the other processes in every step, and cannot reach its targets."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = torch.sigmoid(self(x)).squeeze(1)
        everywhere = out.detach().mean()
        dist.all_reduce(everywhere)
        self.log("mean", self.all_gather(out.detach().mean()).mean(), sync_dist=True)
        return nn.functional.mse_loss(out, y.float()) + 0.0 * everywhere


def test_the_first_process_makes_experiments_and_asks_nobody() -> None:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    suite = DebugSuite(sinks=[])
    fit_in_two(lambda: Talks(net), short(), suite=suite, max_epochs=2)
    assert "cannot-overfit-batch" in names(suite)
    outcomes = {experiment.outcome for experiment in suite.experiments}
    assert "found" in outcomes


class Sums(pl.Callback):
    """Adds up the weights of this process, and what the generator would draw next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = [p.detach() for p in pl_module.parameters()] + [torch.get_rng_state()]
        print_ = hashlib.sha256(b"".join(t.numpy().tobytes() for t in state)).hexdigest()
        (self.folder / str(trainer.global_rank)).write_text(print_)


def test_no_trace(tmp_path: Path) -> None:
    found = []
    for suite in (DebugSuite(debug=False), DebugSuite(sinks=[], every_n_steps=1)):
        fit_in_two(
            lambda: Program(normed()),
            short(),
            suite=suite,
            callbacks=(Sums(tmp_path),),
            max_epochs=2,
        )
        found.append([(tmp_path / rank).read_text() for rank in "01"])
    assert found[0] == found[1]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    suite = DebugSuite(preflight=False)
    fit_in_two(
        lambda: Program(mlp()), short(), suite=suite, default_root_dir=tmp_path, max_epochs=1
    )
    assert suite.run_folder is not None
    assert [p.parent for p in tmp_path.rglob("run.json")] == [suite.run_folder]
    run = json.loads((suite.run_folder / "run.json").read_text())
    assert run["status"] == "completed"
    assert run["looked"]["ranks-diverged"] > 0
    assert (suite.run_folder / "report.html").is_file()


class LeavesOut(pl.Callback):
    """Takes the suite out of the second process, as a failure of ours would."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 5:
            suite: Any = next(c for c in trainer.callbacks if isinstance(c, DebugSuite))  # type: ignore[attr-defined]
            suite._observer = None


def test_a_process_without_the_suite_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RankTap, "patience", 0.5)
    pl.seed_everything(0, verbose=False)
    net = mlp()
    nn.init.constant_(net[0].bias, -50.0)
    suite = DebugSuite(sinks=[], preflight=False)
    started = time.monotonic()
    quiet_trainer(callbacks=[suite, LeavesOut()], strategy=ddp(), devices=2).fit(
        Program(net), short()
    )
    assert time.monotonic() - started < 30.0  # hangs would be cut off by nobody
    assert list(suite.failures) == [RankTap.name]
    assert "no answer" in suite.failures[RankTap.name]
    assert "dead-relu" in names(suite)


def raises() -> None:
    raise ValueError("of the user")


def dies() -> None:
    os._exit(3)


class Fails(Program):
    def __init__(self, how: Callable[[], None]) -> None:
        super().__init__(mlp())
        self.how = how

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_rank == 1 and batch_idx == 5:
            self.how()
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


@pytest.mark.parametrize(("how", "words"), [(raises, "of the user"), (dies, "exit code 3")])
def test_a_process_that_fails_ends_the_run_as_it_would_without_us(
    how: Callable[[], None], words: str
) -> None:
    started = time.monotonic()
    with pytest.raises(Exception, match=words):
        fit_in_two(lambda: Fails(how), short())
    assert time.monotonic() - started < RankTap.patience  # nobody waits for it


# -- sharded ------------------------------------------------------------------------------------


class Sharded(Program):
    """Splits its parameters over the processes."""

    def __init__(self, bias: float = 0.0) -> None:
        norm = nn.LayerNorm(37)
        super().__init__(
            nn.Sequential(nn.Linear(64, 37), norm, nn.ReLU(), nn.Linear(37, 33), nn.ReLU())
        )
        self.net.append(nn.Linear(33, 10))
        if bias:
            nn.init.constant_(self.net[3].bias, bias)
        self.whole: dict[str, float] = {}

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        if not isinstance(self.net[0], torch.distributed.fsdp.FSDPModule):
            for layer in (self.net[0], self.net[3]):
                fully_shard(layer, mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.global_step == 2:
            for name, parameter in self.named_parameters():
                self.whole[name] = parameter.grad.full_tensor().norm().item()


def sharded(on: bool, bias: float = 0.0) -> Any:
    """Return findings, layers' gradient norms, the user's own, collectives, weights."""
    torch.manual_seed(0)
    pl.seed_everything(0, verbose=False)
    calls: Counter[str] = Counter()
    for name in ("all_gather_into_tensor", "all_gather", "reduce_scatter_tensor", "all_reduce"):
        _count(name, calls)
    keep, module = Keep(), Sharded(bias)
    suite = DebugSuite(debug=on, sinks=[keep])
    trainer = quiet_trainer(
        callbacks=[suite],
        strategy=ModelParallelStrategy(process_group_backend="gloo"),
        devices=2,
        max_epochs=2,
    )
    trainer.fit(module, short())
    weights = b"".join(p.to_local().detach().numpy().tobytes() for p in module.parameters())
    found = [(f.name, str(f.severity), f.caused_by) for f in suite.findings]
    norms = [(look.step, look.layers.get("gradient-norm", {})) for look in keep.looks]
    return found, norms, module.whole, calls, hashlib.sha256(weights).hexdigest(), suite.failures


def _count(name: str, calls: Counter[str]) -> None:
    original = getattr(dist, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return original(*args, **kwargs)

    setattr(dist, name, counted)


def test_norms_of_a_sharded_model_are_those_of_the_whole_and_nothing_is_gathered() -> None:
    first, second = in_processes(lambda: sharded(True))
    bare = in_processes(lambda: sharded(False))
    assert first[5] == second[5] == {}
    assert [f for f in first[0] if f[1] != "info"] == []
    norms = dict(first[1])[2]
    for layer, norm in norms.items():
        parts = [v for name, v in first[2].items() if name.rpartition(".")[0] == layer]
        assert norm == pytest.approx(math.hypot(*parts), rel=1e-5)
    assert len(norms) == 4
    more = {name: first[3][name] - bare[0][3][name] for name in first[3]}
    looks = len({step for step, layers in first[1] if layers})
    # One to agree on what there is, and one a look.
    assert more == {"all_reduce": looks + 1} | {n: 0 for n in more if n != "all_reduce"}
    assert [first[4], second[4]] == [bare[0][4], bare[1][4]]


def test_a_bug_in_a_sharded_model_is_found() -> None:
    first, second = in_processes(lambda: sharded(True, bias=-50.0))
    assert ("dead-relu", "warning", "") in first[0]
    assert ("zero-gradient", "error", "dead-relu") in first[0]
    assert first[5] == second[5] == {}


# -- launched in other ways -----------------------------------------------------------------------


@pytest.mark.slow
def test_findings_come_home_from_spawned_processes() -> None:
    pl.seed_everything(0, verbose=False)
    net = mlp()
    nn.init.constant_(net[0].bias, -50.0)
    suite = DebugSuite(sinks=[])
    strategy = DDPStrategy(start_method="spawn", process_group_backend="gloo")
    quiet_trainer(callbacks=[suite], strategy=strategy, devices=2).fit(Program(net), short())
    assert places(suite, "dead-relu") == {"net.1"}
    assert not suite.failures


SCRIPT = """
import pytorch_lightning as pl
from torch import nn
from lightning_debug import DebugSuite
from tests.runs import Program, digits

pl.seed_everything(0)
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Softmax(1), nn.Linear(32, 10), nn.Softmax(1))
suite = DebugSuite()
pl.Trainer(
    accelerator="cpu", strategy="ddp", devices=2, max_epochs=2, callbacks=[suite],
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
).fit(Program(net), digits(n=320, batch=16))
"""


@pytest.mark.slow
def test_a_script_that_is_started_once_for_each_process(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.rglob("findings.jsonl")
    told = [json.loads(line)["name"] for line in found.read_text().splitlines()]
    assert "probabilities-as-logits" in told
    assert (done.stdout + done.stderr).count("probabilities-as-logits") >= 1
