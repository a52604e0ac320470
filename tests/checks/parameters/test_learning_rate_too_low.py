from dataclasses import replace

import pytest

from lightning_debug.checks.parameters.learning_rate_too_low import LearningRateTooLow
from lightning_debug.finding import Severity
from lightning_debug.observation import ParameterStart, Plan, RunEnd, RunStart
from tests.build_observations import loss_calls
from tests.build_rates import trial
from tests.build_updates import ratios, told, updates

FRESH = ParameterStart(shape=(64, 64), fan_in=64, rms=0.0722, largest=0.125)
TRAINED = ParameterStart(shape=(64, 64), fan_in=64, rms=0.0722, largest=0.31)
FROZEN = ParameterStart(shape=(64, 64), fan_in=64, rms=0.0722, largest=0.125, trainable=False)
SLOW = {1.0: 2.2999, 10.0: 2.29, 100.0: 2.1, 1000.0: 0.4}


def run(*weights, ends=SLOW, ratio=5e-5, resumed=False, updates=200, calls=()):
    start = RunStart(parameters={f"{i}.weight": w for i, w in enumerate(weights)}, resumed=resumed)
    plan = Plan(updates=updates)
    return [start, plan, *calls, trial(ends, lr=1e-5, ratio=ratio, run=(2.3, 2.2998))]


def test_fires_where_a_higher_rate_works_on_the_copy():
    [finding] = told(LearningRateTooLow(), *run(FRESH, FRESH))
    assert (finding.where, finding.severity, finding.patience) == ("SGD", Severity.WARNING, 1)
    assert finding.message == (
        "At the learning rate 1e-05 of SGD one step changes the weights by 5.0e-05 of their size"
        " (about 1e-3 is usual), and after 50 updates the loss has gone from 2.3 to 2.3. In 20"
        " steps of a copy from the initial weights it goes from 2.3 to 2.3; with 0.01 it goes to"
        " 0.4."
    )
    assert finding.fix == "Set the learning rate to 0.01 (1000 times what it is)."


def test_blames_the_schedule_where_that_keeps_the_rate_low():
    *before, tried = run(FRESH, FRESH)
    [finding] = told(LearningRateTooLow(), *before, replace(tried, base=2e-3))
    assert "The optimizer is set to 0.002" in finding.message
    assert finding.fix.startswith("Let the schedule come up to 0.002: LambdaLR takes a function")


@pytest.mark.parametrize("weights", [(TRAINED,), (FRESH, TRAINED, TRAINED), (FRESH, FROZEN), ()])
def test_tiny_updates_are_too_small_for_trained_weights_too(weights):
    assert told(LearningRateTooLow(), *run(*weights)) == []
    assert told(LearningRateTooLow(), *run(*weights, ratio=1e-6))


KNOWS = loss_calls(value=0.4, references={"uniform": 2.3})


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param(run(FRESH, ratio=3e-4), id="usual updates"),
        pytest.param(run(FRESH, ends={1.0: 2.29, 10.0: 0.4, 100.0: 2.4}), id="ten times is enough"),
        pytest.param(run(FRESH, ends={1.0: 1.9, 100.0: 0.4}), id="it falls"),
        pytest.param(run(FRESH, ends={1.0: 2.2999, 100.0: 2.28}), id="no rate works"),
        pytest.param(run(FRESH, ratio=1e-6, resumed=True), id="resumed"),
        pytest.param(run(FRESH, ratio=1e-6, updates=10**6), id="time enough"),
        pytest.param(run(FRESH, ends=SLOW | {1.0: 2.299}, updates=0), id="no end planned"),
    ],
)
def test_silent(observations):
    assert told(LearningRateTooLow(), *observations) == []


def test_silent_where_the_first_loss_is_below_chance():
    assert told(LearningRateTooLow(), *run(FRESH, calls=[KNOWS])) == []


def test_zero_is_too_low():
    [finding] = told(LearningRateTooLow(), ratios(0.0, lr=0.0))
    assert finding.message == "The learning rate of Adam has been 0 since the first step."
    assert finding.patience == 0


def resting(epoch, lr=0.0):
    return updates({"a.weight": {"lr": lr, "scheduled": True, "update_rms": 0.0}}, epoch=epoch)


def test_a_schedule_has_an_epoch_to_raise_the_rate():
    assert told(LearningRateTooLow(), resting(0)) == []
    assert told(LearningRateTooLow(), resting(0), resting(1))
    end = RunEnd(step=10)
    [finding] = told(LearningRateTooLow(), resting(0), end)
    assert finding.patience == 1
    assert told(LearningRateTooLow(), resting(0), resting(0, lr=1e-3), end) == []
    assert told(LearningRateTooLow(), resting(0), RunEnd(step=3)) == []
    assert told(LearningRateTooLow(), resting(0), RunEnd(step=10, completed=False)) == []


def test_the_end_of_a_schedule_is_not_its_start():
    assert told(LearningRateTooLow(), ratios(1e-3), ratios(0.0, lr=0.0)) == []
