"""When a schedule is worth its while."""

import pytest

from lightning_debug.checks import NoScheduler
from lightning_debug.finding import Severity
from lightning_debug.observation import RateState
from tests.build_schedules import cosine, schedules, state

LONG = {"updates": 4000, "step": 2000, "stage": "epoch"}


def found(obs):
    return list(NoScheduler().on_schedules(obs))


def test_fires():
    (finding,) = found(schedules(**LONG))
    assert finding.severity is Severity.INFO
    assert finding.message == (
        "The learning rate of Adam has been 0.001 since the start, for 2000 of 4000 updates, and no"
        " scheduler is there."
    )


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(schedules(**LONG | {"updates": 500, "step": 500}), id="short"),
        pytest.param(schedules(**LONG | {"step": 100}), id="not yet"),
        pytest.param(schedules(**LONG | {"updates": 0}), id="of unknown length"),
        pytest.param(schedules(state(cosine(4000)), **LONG), id="scheduled"),
        pytest.param(schedules(**LONG, trial=True), id="trial"),
        pytest.param(
            schedules(**LONG, optimizers=(RateState(optimizer="Adam", constant=False),)),
            id="set by hand",
        ),
        pytest.param(
            schedules(**LONG, optimizers=(RateState(optimizer="LBFGS", adapts=True),)), id="lbfgs"
        ),
    ],
)
def test_silent(obs):
    assert found(obs) == []
