import math

import pytest

from lightning_debug.checks.parameters.clipping_missing import ClippingMissing
from lightning_debug.finding import Severity
from lightning_debug.observation import Clipping, Losses, OptimizerPlan, Plan
from tests.build_clipping import told

SPIKES = (20, 40, 60, 80)
BEFORE = Plan(optimizers=(OptimizerPlan(label="SGD"),))


def run(*, spikes=SPIKES, height=30.0, after=2.0, at=1.0, steps=100, factor=1.0, lasts=4):
    """Return a run of so many steps, seen at its end."""
    calm = [1.0 + 0.05 * (step % 3) for step in range(steps)]
    losses, norms = list(calm), list(calm)
    for spike in spikes:
        norms[spike], losses[spike] = height, at
        for step in range(spike + 1, spike + 1 + lasts):
            losses[step] = after
    passed = tuple(enumerate(norms))
    look = Clipping(
        optimizer="SGD", step=steps, before=4.0, after=4.0 * factor, lr=0.1, passed=passed
    )
    return [Losses(values=tuple(enumerate(losses))), look]


def test_fires_where_spikes_do_harm():
    [finding] = told(ClippingMissing(), BEFORE, *run())
    assert finding.message == (
        "The gradient has spiked 4 times, at step 20 to 29 times its median, and 4 times the loss"
        " was higher afterwards: 2 in the steps after this one, 1.05 before it. Nothing clips it."
    )
    assert finding.fix.startswith("Trainer(gradient_clip_val=4), ")
    assert finding.severity is Severity.WARNING
    assert finding.where == "SGD"


def test_fires_where_the_batch_itself_is_an_outlier():
    assert told(ClippingMissing(), BEFORE, *run(at=50.0))


def test_says_what_to_type_in_manual_optimization():
    [finding] = told(ClippingMissing(), Plan(automatic=False), *run())
    assert finding.fix.startswith('self.clip_gradients(optimizer, 4, "norm")')


@pytest.mark.parametrize(
    ("plan", "observations"),
    [
        pytest.param(BEFORE, run(after=1.0), id="spikes that do nothing"),
        pytest.param(BEFORE, run(height=3.0), id="no spikes"),
        pytest.param(BEFORE, run(spikes=(20, 40), after=1.5), id="two small ones"),
        pytest.param(BEFORE, run(spikes=(30,), after=9.0), id="a single one"),
        pytest.param(BEFORE, run(spikes=(1, 4, 7)), id="in the first steps"),
        pytest.param(BEFORE, run(lasts=1), id="back at once"),
        pytest.param(BEFORE, run(at=2.0, lasts=10), id="the data have become harder"),
        pytest.param(BEFORE, run(factor=0.1), id="clipped by hand"),
        pytest.param(BEFORE, run(after=math.nan), id="no losses"),
        pytest.param(Plan(clip_value=1.0), run(), id="clipped by the trainer"),
        pytest.param(
            Plan(optimizers=(OptimizerPlan(label="G"), OptimizerPlan(label="D"))), run(), id="gan"
        ),
    ],
)
def test_silent(plan, observations):
    assert told(ClippingMissing(), plan, *observations) == []


def test_silent_where_losses_are_negative():
    losses, look = run()
    policy = Losses(values=tuple((step, value - 3.0) for step, value in losses.values))
    assert told(ClippingMissing(), BEFORE, policy, look) == []
