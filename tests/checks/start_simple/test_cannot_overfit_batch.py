"""cannot-overfit-batch on hand-written observations."""

import math

import pytest

from lightning_debug.checks.start_simple.cannot_overfit_batch import CannotOverfitBatch
from lightning_debug.observation import Losses, Overfit, OverfitArm, RunEnd


def arm(factor=1.0, score=0.5, first=2.3, last=0.7, steps=200, **changes):
    """Return a training that ends flat, by default where two classes are told apart by chance."""
    losses = (first, *[last] * (steps - 1))
    return OverfitArm(factor=factor, losses=losses, score=score, **changes)


def tried(*arms, **changes):
    """Return trainings at three learning rates, none of which did, with the changes."""
    arms = arms or (arm(), arm(10.0), arm(0.1))
    fields = {"samples": 2, "function": "cross_entropy", "place": "training_step"}
    fields |= {"metric": "accuracy", "chance": 0.5, "many": 2, "whole": True, "seconds": 1.0}
    return Overfit(arms=arms, **fields | changes)


def found(obs):
    """Return what the check says at the end of the run."""
    check = CannotOverfitBatch()
    assert not list(check.on_overfit(obs))
    return list(check.on_run_end(RunEnd(completed=False)))


def test_it_waits_until_causes_are_told():
    check = CannotOverfitBatch()
    list(check.on_overfit(tried()))
    assert not list(check.on_losses(Losses(step=3)))
    assert len(list(check.on_losses(Losses(step=9)))) == 1
    assert not list(check.on_losses(Losses(step=10)))


def test_a_copy_that_knows_no_more_than_a_constant_is_told_with_numbers():
    (finding,) = found(tried())
    assert finding.severity == "error"
    assert finding.where == "training_step"
    assert "accuracy of 0.5 in 200 steps; a constant gets 0.5" in finding.message
    assert "3 learning rates were tried, from 0.1 to 10 times yours" in finding.message
    assert finding.evidence["score"] == 0.5


def test_parts_that_did_not_move_are_named():
    still = tuple(f"body.{i}.weight" for i in range(5))
    (finding,) = found(tried(arm(still=still), arm(10.0, still=still)))
    assert "No step moved body.0.weight, body.1.weight, body.2.weight and 2 more." in (
        finding.message
    )


def test_explained_variance_below_that_of_a_constant_is_told():
    arms = arm(score=-1.2, first=3.0, last=2.0), arm(10.0, score=-0.5, first=3.0, last=2.0)
    assert found(tried(*arms, metric="explained variance", chance=0.0, samples=1))


def test_losses_that_are_not_finite_count_as_tried():
    assert found(tried(arm(), arm(10.0, last=math.nan, steps=3)))


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(tried(arm(), arm(10.0, score=1.0, solved=True)), id="another rate does"),
        pytest.param(tried(arm(score=1.0, solved=True)), id="learned"),
        pytest.param(tried(arm()), id="one rate tried"),
        pytest.param(tried(arm(), arm(10.0, steps=30)), id="too few steps"),
        pytest.param(tried(arm(), arm(10.0, last=0.1)), id="the loss is gone"),
        pytest.param(tried(arm(), arm(10.0, score=0.8)), id="on its way"),
        pytest.param(tried(arm(), arm(10.0, score=0.65), many=200), id="some of many"),
        pytest.param(
            tried(arm(last=1.0), arm(10.0, last=1.1), many=8, constant=1.4),
            id="below the loss of a constant",
        ),
        pytest.param(tried(whole=False), id="other parts of the loss"),
        pytest.param(Overfit(skipped="the targets are others at each step"), id="skipped"),
    ],
)
def test_silent(obs):
    assert not found(obs)


def test_a_loss_that_still_falls_says_nothing():
    slow = OverfitArm(factor=1.0, losses=tuple(2.3 - 0.005 * i for i in range(200)), score=0.5)
    assert not found(tried(slow, arm(0.1, last=2.3)))


def test_the_summary_says_how_soon_and_what_it_is_worth_elsewhere():
    learned = arm(score=1.0, solved=True, steps=40)
    obs = tried(learned, unseen=0.12, unseen_chance=0.1, validated=True)
    assert obs.summary == (
        "2 samples: accuracy 1.00 in 40 steps; 0.12 on validation data (a constant: 0.10)"
    )
