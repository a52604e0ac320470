"""Runs that nobody has seeded."""

import pytest

from lightning_debug.checks import UnseededRun
from lightning_debug.finding import Severity
from lightning_debug.observation import RunStart


def test_fires():
    (finding,) = UnseededRun().on_run_start(RunStart(seeded=False))
    assert finding.message == (
        "Neither seed_everything nor torch.manual_seed was called: initial weights, order of"
        " samples and dropout differ in each run."
    )
    assert finding.severity is Severity.INFO
    assert "seed_everything(42, workers=True)" in finding.fix


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(RunStart(seeded=True), id="seeded"),
        pytest.param(RunStart(seeded=False, resumed=True), id="its first run was told"),
    ],
)
def test_silent(start):
    assert not list(UnseededRun().on_run_start(start))
