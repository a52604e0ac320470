"""``assert_trains`` and the plugin for pytest, used as a project uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_debug.testing import assert_trains
from tests.runs import Program, digits

pytest_plugins = ["pytester"]

PROJECT = """
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

class Model(pl.LightningModule):
    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    def training_step(self, batch, index):
        x, y = batch
        out = self.net(x)
        return F.cross_entropy(out.softmax(1) if self.broken else out, y)
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)

def data():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 32, shuffle=True)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Probabilities(Program):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(1)


class Frozen(Program):
    """Forgets to hand the head to the optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net[0].parameters(), lr=1e-3)


def test_a_healthy_model_passes() -> None:
    found = assert_trains(Program(network()), digits())
    assert found.ok
    assert found.experiments


@pytest.mark.parametrize(
    ("model", "name"),
    [(Probabilities, "probabilities-as-logits"), (Frozen, "parameter-not-optimized")],
)
def test_a_broken_model_fails(model: Any, name: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_trains(model(network()), digits())
    assert type(caught.value) is AssertionError
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{model.__name__} does not train as it should: ")
    assert any(line.startswith(f"error {name} at ") and " Fix: " in line for line in lines)


def test_what_is_ignored_or_mild_does_not_fail() -> None:
    ignored = ["probabilities-as-logits", "start_simple", "loss", "data"]
    assert_trains(Probabilities(network()), digits(), ignore=ignored)
    assert_trains(Probabilities(network()), digits(), select=["batch-mixing"])

    in_order = digits(n=320, shuffle=False)
    with pytest.raises(AssertionError, match=r"1 finding\nwarning data-not-shuffled"):
        assert_trains(Program(network()), in_order)
    assert not assert_trains(Program(network()), in_order, level="error").ok


def test_a_level_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="level='info' must be 'warning' or 'error'"):
        assert_trains(Program(network()), digits(), level="info")


def test_the_random_numbers_of_the_test_stay() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert_trains(Program(network().train()), digits(n=320), steps=5)
    torch.manual_seed(7)
    assert torch.equal(before, torch.get_rng_state())


class TestPlugin:
    def test_a_failure_reads_like_one_of_pytest(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            PROJECT
            + """
def test_broken(assert_trains):
    assert_trains(Model(broken=True), data())

def test_sound(assert_trains, preflight):
    assert assert_trains(Model(broken=False), data()).ok
"""
        )
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(
            [
                ">   *assert_trains(Model(broken=True), data())",
                "E   *AssertionError: Model does not train as it should: *",
                "E   *error probabilities-as-logits at *cross_entropy expects logits*Fix: *",
                "*- lightning_debug -*",
                "*Experiment*Outcome*Time*What was seen*",
                "*one or two samples by heart*",
            ]
        )
        result.stdout.no_fnmatch_line("*testing.py:*: AssertionError")

    @pytest.mark.slow
    def test_it_works_across_processes(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            PROJECT
            + """
@pytest.mark.parametrize("broken", [True, False])
def test_it(assert_trains, broken):
    assert_trains(Model(broken), data())
"""
        )
        result = pytester.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["*probabilities-as-logits*", "*- lightning_debug -*"])

    def test_other_projects_do_not_pay(self, tmp_path: Path) -> None:
        (tmp_path / "test_other.py").write_text("def test_it():\n    pass\n")
        (tmp_path / "conftest.py").write_text(
            "import sys\n"
            "def pytest_unconfigure():\n"
            "    heavy = {'torch', 'pytorch_lightning', 'lightning', 'rich'}\n"
            "    assert 'lightning_debug.pytest_plugin' in sys.modules\n"
            "    print('loaded:', sorted(heavy & sys.modules.keys()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
            capture_output=True,
            text=True,
        )
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        assert "loaded: []" in done.stdout


def test_the_plugin_is_installed() -> None:
    [plugin] = metadata.entry_points(group="pytest11", name="lightning_debug")
    assert plugin.value == "lightning_debug.pytest_plugin"
