import math

import pytest

from lightning_debug.checks.parameters.learning_rate_too_high import LearningRateTooHigh
from lightning_debug.finding import Severity
from lightning_debug.observation import Plan
from tests.build_rates import answer, trial
from tests.build_updates import losses, ratios, told


def test_fires_where_a_lower_rate_works_on_the_copy():
    [finding] = told(LearningRateTooHigh(), trial({1.0: 2.2, 0.1: 0.3, 0.01: 1.5}))
    assert (finding.where, finding.severity, finding.patience) == ("SGD", Severity.WARNING, 1)
    assert finding.message == (
        "At the learning rate 1 of SGD the loss has gone from 2.3 to 2.4, and one step has changed"
        " the weights by 0.5 of their size (about 1e-3 is usual). In 20 steps of a copy from the"
        " initial weights it goes from 2.3 to 2.2; with 0.1 it goes to 0.3."
    )
    assert finding.fix.startswith("Set the learning rate to 0.1 (0.1 times what it is).")
    assert finding.evidence["factor"] == 0.1


def test_suggests_the_lowest_rate_that_does_half_as_well():
    [finding] = told(LearningRateTooHigh(), trial({1.0: 2.2, 0.1: 0.3, 0.01: 1.2, 0.001: 2.0}))
    assert finding.evidence["factor"] == 0.01


@pytest.mark.parametrize("end", [2.31, 50.0, math.inf])
def test_a_small_gain_is_enough_where_the_rate_of_the_run_makes_it_worse(end):
    assert told(LearningRateTooHigh(), trial({1.0: end, 0.1: 2.2}))


def test_coming_down_to_a_constant_prediction_is_no_gain():
    ends = {1.0: 2.3, 0.1: 1.5}
    assert told(LearningRateTooHigh(), trial(ends, start=3.3)) == []
    [finding] = told(LearningRateTooHigh(), trial(ends, start=3.3, chance=2.4))
    assert finding.message.endswith("it goes to 1.5. A constant prediction gives at most 2.4.")


@pytest.mark.parametrize(
    "observation",
    [
        pytest.param(trial({1.0: 0.5, 0.1: 0.3}), id="both work"),
        pytest.param(trial({1.0: 2.0, 0.1: 1.5}, start=3.3, chance=2.4), id="both beat a constant"),
        pytest.param(
            trial({1.0: 2.5, 0.1: 2.3}, start=3.3, chance=2.4), id="little below a constant"
        ),
        pytest.param(trial({1.0: 1.8, 0.1: 0.5}), id="not four times as well"),
        pytest.param(trial({1.0: 2.29, 0.1: 2.2}), id="no rate works"),
        pytest.param(trial({1.0: 2.31, 0.1: 2.29}), id="hardly better"),
        pytest.param(trial({1.0: 2.4, 10.0: 0.3}), id="a higher rate"),
        pytest.param(trial({1.0: 2.4, 0.1: 0.3}, ratio=1e-2), id="usual updates"),
        pytest.param(trial({}, skipped="there are several optimizers"), id="no trial"),
    ],
)
def test_silent_after_a_trial(observation):
    assert told(LearningRateTooHigh(), observation) == []


def untried(loss=2.4, answers=(0.5,) * 8, ratio=0.3, first=(), step=60):
    steps = [answer(end) for end in answers]
    return [*first, losses(2.3), losses(loss), *steps, ratios(ratio, lr=0.1, step=step)]


def test_without_a_trial_it_takes_large_updates_that_overshoot_and_a_loss_that_stays():
    [finding] = told(LearningRateTooHigh(), *untried())
    assert finding.message == (
        "A step of Adam at the learning rate 0.1 has changed the weights by 0.3 of their size"
        " (about 1e-3 is usual), and 8 of 8 went beyond the lowest point of the loss along their"
        " direction. The loss has gone from 2.3 to 2.4."
    )


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param(untried(loss=1.5), id="the loss falls"),
        pytest.param(untried(answers=(0.5,) * 4 + (-0.5,) * 4), id="half of them"),
        pytest.param(untried(answers=(0.5,) * 7), id="too few"),
        pytest.param(untried(ratio=0.05), id="usual updates"),
        pytest.param(untried(first=[trial({1.0: 2.2, 0.1: 2.2})]), id="a trial told otherwise"),
        pytest.param(untried(answers=(math.nan,) * 8), id="not finite"),
        pytest.param(untried(first=[Plan(trials=True)], step=40), id="a trial may come"),
    ],
)
def test_silent_without_a_trial(observations):
    assert told(LearningRateTooHigh(), *observations) == []


@pytest.mark.parametrize(
    "last",
    [
        pytest.param([], id="half of a short run is over"),
        pytest.param([trial({}, skipped="there are several optimizers")], id="none can be made"),
    ],
)
def test_what_was_seen_while_a_trial_might_come_counts(last):
    check, step = LearningRateTooHigh(), 40 if last else 60
    planned = Plan(trials=True, updates=100)
    assert told(check, *untried(first=[planned], step=30)) == []
    for _ in range(4):
        assert told(check, ratios(0.3, lr=0.1, step=32)) == []
    [finding] = told(check, *last, ratios(0.3, lr=0.1, step=step))
    assert finding.patience == check.patience - 5
