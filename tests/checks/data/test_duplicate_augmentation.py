import pytest

from lightning_debug.checks.data.duplicate_augmentation import DuplicateAugmentation
from lightning_debug.observation import Comparison
from tests.build_data import batch, inputs, prints, start, targets


def alike(value, labels=False):
    others = -1.0 if labels else 0.0
    return Comparison(pairs=32, alike=others + value, others=others, spread=0.2)


def judge(within=0.5, across=0.0, labels=0.0, workers=2, looks=10, known=True):
    check = DuplicateAugmentation()
    list(check.on_run_start(start(workers=workers, known=known)))
    found = []
    for index in range(looks):
        one_round = workers and index % workers != 0
        obs = batch(
            step=index,
            workers=alike(within if one_round else across) if index else None,
            worker_labels=alike(labels, labels=True) if index else None,
        )
        found = list(check.on_batch(obs))
    return found


def test_fires():
    (finding,) = judge()
    assert finding.message == (
        "Samples at the same position of the batches that the 2 workers make at the same time have"
        " a correlation that is 0.50 above that of other samples (0.00 between batches of"
        " different rounds): the workers draw the same random numbers."
    )


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"within": 0.01}, id="each has its own"),
        pytest.param({"across": 0.5}, id="periodic data"),
        pytest.param({"labels": 0.5}, id="targets are alike too"),
        pytest.param({"workers": 0}, id="no workers"),
        pytest.param({"workers": 1}, id="one worker"),
        pytest.param({"looks": 4}, id="few batches"),
        pytest.param({"within": float("nan")}, id="not finite"),
    ],
)
def test_silent(settings):
    assert not judge(**settings)


def stream(workers=2, looks=7, number=lambda index, workers: index // workers, **changes):
    """Judge looks at batches that are the same where they have one number."""
    check = DuplicateAugmentation()
    loader = {"known": False, "iterable": True, "workers": workers} | changes
    list(check.on_run_start(start(**loader)))
    found = []
    for index in range(looks):
        first = prints(32, 32 * number(index, workers))
        obs = batch(inputs(prints=first), targets(prints=first), step=index)
        found = list(check.on_batch(obs))
    return found


def test_fires_on_a_stream_that_is_not_split():
    (finding,) = stream()
    assert finding.message == (
        "All 3 pairs of batches that the 2 workers made at the same time are the same,"
        " sample for sample, and those of different times are not: each worker goes through all"
        " the data."
    )
    assert "get_worker_info" in finding.fix
    assert stream(workers=8, looks=18)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"number": lambda index, workers: index}, id="split"),
        pytest.param({"number": lambda index, workers: 0}, id="constant"),
        pytest.param(
            {"number": lambda index, workers: index // workers if index < 6 else index}, id="once"
        ),
        pytest.param({"workers": 1}, id="one worker"),
        pytest.param({"looks": 5}, id="few batches"),
        pytest.param({"overfit": True}, id="overfitting"),
        pytest.param({"known": True, "iterable": False}, id="a sampler that repeats batches"),
    ],
)
def test_silent_on_streams(settings):
    assert not stream(**{"looks": 8} | settings)


def test_silent_on_dummies():
    check = DuplicateAugmentation()
    list(check.on_run_start(start(known=False, iterable=True, workers=2)))
    for index in range(10):
        dummy = inputs(features=1, prints=prints(32, index // 2))
        assert not list(check.on_batch(batch(dummy, step=index)))
