import itertools

import pytest

from lightning_debug.schedule import Schedule


def looks(schedule, updates):
    found = []
    for update in range(updates):
        if schedule.due(update):
            found.append(update)
            schedule.looked(update)
    return found


def test_dense_then_at_growing_intervals():
    found = looks(Schedule(every_n_steps=50), 1000)
    assert found[:16] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 20, 25, 31]
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert gaps == sorted(gaps)
    assert max(gaps) == 50


def test_a_short_interval_holds_from_the_start():
    assert looks(Schedule(every_n_steps=1), 40) == list(range(40))
    found = looks(Schedule(every_n_steps=5), 99)
    assert max(after - before for before, after in itertools.pairwise(found)) == 5


def whole_looks(schedule, updates):
    found = []
    for update in range(updates):
        if schedule.due(update) and schedule.whole(update):
            found.append(update)
            schedule.looked(update)
        elif schedule.due(update):
            schedule.glanced(update)
    return found


@pytest.mark.parametrize("every", [1, 2, 7, 20, 50, None])
def test_whole_looks_come_as_if_the_interval_were_twenty_at_least(every):
    plain = looks(Schedule(every_n_steps=every and max(every, 20)), 400)
    found = whole_looks(Schedule(every_n_steps=every), 400)
    assert found == plain


@pytest.mark.parametrize(("every", "expected"), [(1, 400), (50, 28)])
def test_glances_fill_the_gaps_between_whole_looks(every, expected):
    schedule, found = Schedule(every_n_steps=every), []
    for update in range(400):
        if schedule.due(update):
            found.append(update)
            (schedule.looked if schedule.whole(update) else schedule.glanced)(update)
    assert len(found) == expected


def test_goes_on_from_where_a_resumed_run_is():
    schedule = Schedule(every_n_steps=50)
    assert schedule.due(10_000)
    schedule.looked(10_000)
    assert not schedule.due(10_049)
    assert schedule.due(10_050)


def test_waits_for_a_look_that_came_to_nothing():
    schedule = Schedule()
    assert schedule.due(0)
    assert schedule.due(1)


@pytest.mark.parametrize("every", [0, -1, 2.5, "10", True])
def test_refuses_an_interval_that_is_none(every):
    with pytest.raises(ValueError, match=r"every_n_steps=.*whole number of at least 1"):
        Schedule(every_n_steps=every)
