"""What is counted of schedulers while training goes on."""

import torch
from torch import nn
from torch.optim import lr_scheduler as lr

from lightning_debug.experiments.rehearsal import rehearse
from lightning_debug.observation import Plan
from lightning_debug.taps import schedules
from lightning_debug.taps.schedules import Course, Scheduled, ScheduleTap
from lightning_debug.taps.wiring import Wiring


def tap(build, *, interval="step", plan=None, **course):
    """Return a tap on one scheduler of a linear layer, with the scheduler."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = build(optimizer)
    known = [Scheduled(scheduler=scheduler, interval=interval)]
    plan = plan or Plan(updates=40, epochs=4, batches=10)
    wiring = Wiring(model, [optimizer])
    followed = ScheduleTap(
        model, wiring, plan, Course(schedulers=lambda: known, **course), rehearse
    )
    assert not list(followed.start(0, 0))
    return followed, scheduler


def run(followed, scheduler, batches, *, every=1):
    """Pass by batches, with a call of the scheduler after every so many."""
    scheduler.optimizer.step()
    for index in range(batches):
        followed.passes(index, index // 10)
        if (index + 1) % every == 0:
            scheduler.step()


def test_shows_the_plan_after_a_few_updates():
    followed, scheduler = tap(lambda o: lr.CosineAnnealingLR(o, 40))
    run(followed, scheduler, 4)
    assert not list(followed.observations(4, 0))
    run(followed, scheduler, 1)
    (obs,) = followed.observations(5, 0)
    (state,) = obs.schedules
    assert (obs.stage, state.calls, state.made, state.own) == ("early", 40, 5, False)
    assert state.rates[0] == 0.1
    assert not list(followed.observations(6, 0))


def test_takes_what_it_sees_where_the_program_calls():
    followed, scheduler = tap(lambda o: lr.StepLR(o, 30), interval="epoch")
    run(followed, scheduler, 40)
    (obs,) = followed.rest(40, 3)
    (state,) = obs.schedules
    assert (state.own, state.interval, state.calls) == (True, "step", 40)


def test_a_run_that_may_stop_early_is_judged_by_what_was():
    followed, scheduler = tap(lambda o: lr.StepLR(o, 30), open=True)
    run(followed, scheduler, 20)
    (early,) = followed.observations(20, 1)
    (end,) = followed.rest(20, 1)
    assert [obs.schedules[0].calls for obs in (early, end)] == [0, 20]
    assert early.schedules[0].planned == 40


def test_history_is_bounded(monkeypatch):
    monkeypatch.setattr(schedules, "POINTS", 16)
    followed, _ = tap(lambda o: lr.ReduceLROnPlateau(o), interval="epoch")
    for index in range(100):
        followed.passes(index, index // 10)
    (obs,) = followed.rest(100, 9)
    (state,) = obs.schedules
    assert state.rates == ()
    assert len(state.history) <= 16
    assert len(state.history) * state.stride >= 100 - state.stride
