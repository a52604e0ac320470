import pytest

from lightning_debug.checks.parameters.batch_size_too_small import BatchSizeTooSmall
from lightning_debug.finding import Severity
from lightning_debug.observation import (
    Clipping,
    Loader,
    LossCall,
    LossCalls,
    Plan,
    RunEnd,
    RunStart,
)
from tests.build_clipping import STEPS, curve, told

NOISY = [2.0 + 0.5 * ((7 * step) % 5 - 2) for step in range(500)]
CHANCE = LossCalls(calls=(LossCall(function="cross_entropy", references={"uniform": 2.1}),))


def run(*, batch=1, values=NOISY, plan=None, calls=None, other="", completed=True, **changes):
    """Return a run with steps that raise the loss by 0.025 times the squared gradient."""
    fields = {"optimizer": "SGD", "before": 6.0, "after": 6.0, "pull": 0.1, "ratio": 4e-2}
    fields |= {"alike": 0.02, "memory": 0.0}
    looks = [Clipping(step=step, **{**fields, **changes}) for step in STEPS]
    return [
        RunStart(loader=Loader(known=True, batch_size=batch)),
        plan or Plan(updates=400),
        calls or LossCalls(),
        curve(*values),
        *looks,
        *([Clipping(optimizer=other)] if other else []),
        RunEnd(completed=completed),
    ]


def test_fires_where_noise_keeps_the_loss_up():
    [finding] = told(BatchSizeTooSmall(), *run())
    assert finding.message == (
        "An update of SGD sees one sample, and the loss stays at 2: the noise of such steps alone"
        " raises it by 0.9 or more. Gradients of different batches have a mean cosine of 0.02."
    )
    assert finding.fix.startswith(
        "DataLoader(..., batch_size=16), or Trainer(accumulate_grad_batches=16)"
    )
    assert finding.severity is Severity.WARNING
    assert finding.where == "batches"


def test_fires_where_large_steps_have_learned_nothing():
    [finding] = told(BatchSizeTooSmall(), *run(batch=2, calls=CHANCE, after=0.5))
    assert "a constant prediction gives 2.1, while each step changes the weights by 4.0e-02" in (
        finding.message
    )
    assert "sees 2 samples" in finding.message


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param(run(batch=32), id="a usual batch"),
        pytest.param(run(plan=Plan(accumulate=32)), id="accumulated"),
        pytest.param(run(plan=Plan(processes=16)), id="over processes"),
        pytest.param(run(batch=0), id="nobody knows the size"),
        pytest.param(run(values=[v - 0.004 * i for i, v in enumerate(NOISY)]), id="falling"),
        pytest.param(run(values=[9.0] * 30 + NOISY[:200]), id="has come down"),
        pytest.param(run(values=NOISY[:100]), id="a short run"),
        pytest.param(run(values=[v - 5.0 for v in NOISY]), id="negative losses"),
        pytest.param(run(after=0.5), id="small steps"),
        pytest.param(run(after=0.5, ratio=1e-4, calls=CHANCE), id="slow steps, no better"),
        pytest.param(run(alike=0.5), id="gradients agree"),
        pytest.param(run(other="Adam"), id="gan"),
    ],
)
def test_silent(observations):
    assert told(BatchSizeTooSmall(), *observations) == []
