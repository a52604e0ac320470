import pytest

from lightning_debug.checks.data.duplicate_augmentation import DuplicateAugmentation
from lightning_debug.observation import Comparison
from tests.build_data import batch, start


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
