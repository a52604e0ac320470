"""What counts as a schedule that the run does not follow as it was meant."""

import pytest

from lightning_debug.checks import SchedulerMisconfigured
from lightning_debug.observation import RateState
from tests.build_schedules import (
    cosine,
    cycles,
    exponential,
    linear,
    milestones,
    restarts,
    schedules,
    state,
    steps,
    warm,
    warm_cosine,
)


def found(obs):
    return list(SchedulerMisconfigured().on_schedules(obs))


def test_spells_out_what_the_run_sees():
    (finding,) = found(schedules(state(cosine(400), "epoch")))
    assert finding.message == (
        "CosineAnnealingLR is called once an epoch, 10 times in this run of 400 updates, but it is"
        " made for 400 calls: it takes the learning rate from 1 to 0.999 only."
    )
    assert finding.fix.startswith('Write {"scheduler": scheduler, "interval": "step"}')
    assert finding.where == "CosineAnnealingLR"
    assert finding.evidence["made_for"] == 400


@pytest.mark.parametrize(
    ("obs", "said"),
    [
        pytest.param(
            schedules(state(linear(1600), "epoch"), several=(4,)), "made for 1600", id="batches"
        ),
        pytest.param(schedules(state(warm(100), "epoch")), "never takes", id="warm-up by epoch"),
        pytest.param(
            schedules(state(warm(1000), "epoch")), "never takes", id="warm-up of 1000 by epoch"
        ),
        pytest.param(
            schedules(state(warm_cosine(40, 400), "epoch")), "made for 400", id="with warm-up"
        ),
        pytest.param(
            schedules(state(warm_cosine(90, 300)[:301], "epoch", ends=True)), "made for 300",
            id="one that refuses more calls",
        ),
        pytest.param(schedules(state(cosine(10))), "again and again", id="cosine of epochs"),
        pytest.param(schedules(state(cosine(11))), "again and again", id="and nearly so"),
        pytest.param(
            schedules(state(exponential(0.95))), "as if updates were epochs", id="exponential"
        ),
        pytest.param(
            schedules(state(steps(60))), "as if updates were epochs", id="steps of epochs"
        ),
        pytest.param(schedules(state(milestones(6))), "stays there", id="milestone of epochs"),
        pytest.param(
            schedules(state(linear(1600)), several=(4,)), "4 batches share", id="accumulation"
        ),
        pytest.param(
            schedules(state(linear(200)), several=(2,)), "is over after 200", id="divided twice"
        ),
        pytest.param(schedules(state(cosine(200))), "climbs back to 1", id="overrun"),
        pytest.param(schedules(state(cosine(5), "epoch")), "back to 0.905", id="by epoch"),
        pytest.param(
            schedules(state(warm_cosine(20, 120))), "climbs back to 1", id="overrun after warm-up"
        ),
        pytest.param(schedules(state(linear(100))), "remaining 301 next", id="over early"),
        pytest.param(schedules(state((0.0,) * 2000)), "at 0 in the whole run", id="zero"),
        pytest.param(
            schedules(state(cosine(4), frequency=50)), "is never called", id="frequency"
        ),
        pytest.param(
            schedules(state(cosine(400), "", calls=0), stage="end", automatic=False,
                      batches_seen=400, epochs_seen=10),
            "in manual optimization Lightning does not call it", id="manual, never",
        ),
        pytest.param(
            schedules(state(cosine(400)), stage="end", batches_seen=400, epochs_seen=10),
            "lr_scheduler_step does not call it", id="automatic, never",
        ),
        pytest.param(
            schedules(state(made=100, restarts=3), stage="end"), "built anew 3 times", id="anew"
        ),
        pytest.param(
            schedules(
                state(history=steps(20, calls=400), plateau=True, made=400), stage="end"
            ),
            "next to nothing", id="plateau by step",
        ),
        pytest.param(
            schedules(
                optimizers=(RateState(optimizer="SGD", lost=True),), stage="end", batches_seen=40
            ),
            "nobody calls it", id="not returned",
        ),
        pytest.param(
            schedules(
                optimizers=(RateState(optimizer="SGD", astray="StepLR"),), stage="end",
                batches_seen=40,
            ),
            "StepLR drives another optimizer", id="of another optimizer",
        ),
        pytest.param(
            schedules(state(cosine(400), calls=40, frequency=10)), "called every 10 updates",
            id="every ten updates",
        ),
        pytest.param(
            schedules(state(warm_cosine(600, 2000)[:1501], ends=True)), "made for 1500 calls, and",
            id="too long for one cycle",
        ),
        pytest.param(
            schedules(state(tuple(1 - n / 200 for n in range(2000)))), "negative", id="negative"
        ),
        pytest.param(
            schedules(state(cosine(400), "epoch", calls=0, planned=10)), "once an epoch",
            id="though the run may stop early",
        ),
    ],
)  # fmt: skip
def test_fires(obs, said):
    (finding,) = found(obs)
    assert said in finding.message


def test_a_plateau_that_watches_the_wrong_way_explains_its_fall():
    check = SchedulerMisconfigured()
    fallen = state(history=steps(20, calls=400), plateau=True, made=400, stride=2)
    assert check.causes() == ()
    (finding,) = check.on_schedules(schedules(fallen, stage="end"))
    assert "within 80 of the 800 batches" in finding.message
    assert check.causes() == ("monitor-mode-reversed",)


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(schedules(state(cosine(400))), id="cosine to 0"),
        pytest.param(schedules(state(cosine(10), "epoch")), id="cosine by epoch"),
        pytest.param(schedules(state(cosine(12), "epoch")), id="a little longer than the run"),
        pytest.param(schedules(state(cosine(350))), id="a little shorter than the run"),
        pytest.param(schedules(state(cosine(5000))), id="smoke run of a long schedule"),
        pytest.param(schedules(state(cosine(200), "epoch")), id="smoke run by epoch"),
        pytest.param(schedules(state(steps(30), "epoch")), id="steps beyond the run"),
        pytest.param(schedules(state(milestones(100, 150), "epoch")), id="milestones beyond"),
        pytest.param(schedules(state(warm(10), "epoch")), id="warm-up by epoch"),
        pytest.param(schedules(state(warm(1000))), id="warm-up longer than the run"),
        pytest.param(schedules(state(warm(10))), id="warm-up of as many updates as epochs"),
        pytest.param(schedules(state(warm_cosine(40, 400))), id="warm-up and cosine"),
        pytest.param(schedules(state(linear(400))), id="linear to 0"),
        pytest.param(schedules(state(linear(300))), id="rests at 0 in the last quarter"),
        pytest.param(
            schedules(state(cosine(400), late=True), stage="end", batches_seen=400, epochs_seen=10),
            id="came while training went on",
        ),
        pytest.param(schedules(state(cycles(10))), id="cyclic"),
        pytest.param(schedules(state(cycles(2), "epoch")), id="cyclic by epoch"),
        pytest.param(schedules(state(restarts(10))), id="restarts"),
        pytest.param(schedules(state(restarts(3), "epoch")), id="restarts by epoch"),
        pytest.param(
            schedules(state(cosine(60), kind="LambdaLR", label="LambdaLR")), id="many long waves"
        ),
        pytest.param(schedules(state(exponential(0.99))), id="exponential"),
        pytest.param(schedules(state(exponential(0.7), "epoch")), id="exponential by epoch"),
        pytest.param(schedules(state((1.0,) * 2000)), id="constant"),
        pytest.param(schedules(state(milestones(200, 300))), id="milestones in updates"),
        pytest.param(schedules(state(cosine(10)), trial=True), id="trial"),
        pytest.param(
            schedules(state(warm_cosine(600, 2000)[:1501], ends=True), cut=True), id="smoke run"
        ),
        pytest.param(schedules(state(cosine(60), "epoch"), limited=True), id="few batches"),
        pytest.param(schedules(state(cosine(200), calls=0, planned=400)), id="may stop early"),
        pytest.param(
            schedules(
                state(history=steps(20, calls=400), interval="epoch", plateau=True, made=10),
                stage="end",
            ),
            id="plateau by epoch",
        ),
        pytest.param(
            schedules(
                state(cosine(400), made=0, calls=0, interval=""),
                stage="epoch", automatic=False, batches_seen=80, epochs_seen=2,
            ),
            id="manual, not called yet",
        ),
        pytest.param(
            schedules(
                state(cosine(400), made=0, calls=0, interval=""), stage="end", automatic=False,
                batches_seen=400, epochs_seen=10,
                optimizers=(RateState(optimizer="Adam", constant=False),),
            ),
            id="manual, the rate is set by hand",
        ),
    ],
)  # fmt: skip
def test_silent(obs):
    assert found(obs) == []
