import math

from lightning_debug.report.thinning import evenly, points, short


def test_few_points_stay_as_they_are():
    assert points([0, 5], [1.0, 2.0], most=10) == [[0, 1.0], [5, 2.0]]


def test_no_points():
    assert points([], [], most=10) == []


def test_peaks_and_ends_survive():
    values = [1.0] * 10_000
    values[0], values[1234], values[7777], values[-1] = 2.0, 99.0, -5.0, 3.0
    kept = points(range(10_000), values, most=100)
    assert len(kept) <= 100
    assert {(0, 2.0), (1234, 99.0), (7777, -5.0), (9999, 3.0)} <= {(x, y) for x, y in kept}
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_a_gap_survives():
    values = [1.0] * 10_000
    values[4321] = math.nan
    assert [4321, None] in points(range(10_000), values, most=100)


def test_nothing_but_gaps():
    kept = points(range(1000), [math.inf] * 1000, most=50)
    assert 0 < len(kept) <= 50
    assert all(y is None for _, y in kept)


def test_four_digits_that_count():
    assert short(0.000123456) == 0.0001235
    assert short(math.inf) is None


def test_evenly_keeps_the_ends():
    assert evenly(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert evenly([1, 2], 5) == [1, 2]
