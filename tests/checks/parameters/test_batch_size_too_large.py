import math

import pytest

from lightning_debug.checks.parameters.batch_size_too_large import BatchSizeTooLarge
from lightning_debug.finding import Severity
from lightning_debug.observation import (
    GradientNoise,
    GroupPlan,
    Loader,
    OptimizerPlan,
    Plan,
    RunEnd,
    RunStart,
)
from tests.build_clipping import curve, told

ADAM = OptimizerPlan(label="Adam", groups=(GroupPlan(settings={"lr": 1e-3}),))
LBFGS = OptimizerPlan(label="LBFGS", groups=(GroupPlan(settings={"history_size": 10}),))
SLOW = [2.3 - 0.02 * step for step in range(10)]


def run(
    *, batches=1, updates=10, values=SLOW, loader=None, optimizers=(ADAM,), noise=None, whole=1
):
    """Return a run with one batch of 1024 samples an epoch, and its end."""
    loader = loader or Loader(known=True, batches=whole, samples=1024, batch_size=1024)
    measured = {"scale": 50.0, "low": 30.0, "high": 90.0, "batch": 1024}
    return [
        RunStart(loader=loader),
        Plan(updates=updates, epochs=10, batches=batches, optimizers=optimizers),
        GradientNoise(**{**measured, **(noise or {})}),
        curve(*values),
        RunEnd(completed=True),
    ]


def test_fires_where_a_run_has_few_updates():
    [finding] = told(BatchSizeTooLarge(), *run())
    assert finding.message == (
        "A batch has 1024 samples, so the run made 10 updates and ended at a loss of 2.12, from"
        " 2.3, still falling. Beyond about 50 samples (the gradient noise scale) more of them say"
        " nothing new."
    )
    assert finding.fix == "DataLoader(..., batch_size=32)."
    assert finding.severity is Severity.WARNING
    assert finding.where == "batches"


def test_one_batch_may_be_meant_as_all():
    start, plan, *_ = run(whole=32)
    [finding] = told(BatchSizeTooLarge(), start, plan)
    assert finding.severity is Severity.INFO
    assert finding.message.startswith("An epoch has one batch, though the loader has 32:")


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param(run(batches=8), id="several batches"),
        pytest.param(run(updates=1000), id="many updates"),
        pytest.param(run(values=[2.3 - 0.2 * i for i in range(10)]), id="trained"),
        pytest.param(run(values=[2.3] * 10), id="does not fall"),
        pytest.param(run(values=SLOW[:4]), id="a few steps"),
        pytest.param(run(values=[v - 9.0 for v in SLOW]), id="negative losses"),
        pytest.param(run(noise={"scale": 600.0}), id="samples differ"),
        pytest.param(run(noise={"high": math.inf}), id="nobody knows how much"),
        pytest.param(run(noise={"batch": 100, "scale": 5.0}), id="a small data set"),
        pytest.param(run(noise={"skipped": "no samples"}), id="not measured"),
        pytest.param(run(loader=Loader(known=True, batches=1, overfit=True)), id="overfitting"),
        pytest.param(run(whole=32), id="limited on purpose"),
        pytest.param(run(optimizers=(LBFGS,)), id="lbfgs"),
        pytest.param(run(optimizers=(ADAM, ADAM)), id="gan"),
        pytest.param([*run()[:-1], RunEnd(completed=False)], id="interrupted"),
    ],
)
def test_silent(observations):
    assert told(BatchSizeTooLarge(), *observations) == []
