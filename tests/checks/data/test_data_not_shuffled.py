import pytest

from lightning_debug.checks.data.data_not_shuffled import DataNotShuffled
from lightning_debug.finding import Severity
from tests.build_data import batch, epoch_starts, inputs, start, targets

FIRST = epoch_starts(0, 1.5, 2.5, 3.5, 4.5)


def judge(*looks, **loader):
    check = DataNotShuffled()
    list(check.on_run_start(start(**{"order": "sequential"} | loader)))
    found = []
    for look in looks:
        found = list(check.on_batch(look))
    return found


def sorted_looks(adjacent=1.0, target_adjacent=1.0, **changes):
    """Return ten batches, of which each has one class."""
    return [
        batch(
            inputs(adjacent=adjacent, **changes),
            targets(*[step // 2] * 32, adjacent=target_adjacent),
            step=step,
        )
        for step in range(10)
    ]


def repeated(*numbers, epoch=1, adjacent=1.0, **changes):
    second = epoch_starts(epoch, *(numbers or (1.5, 2.5, 3.5, 4.5)))
    tensors = inputs(adjacent=adjacent), targets(**changes)
    return [batch(*tensors, starts=FIRST), batch(*tensors, starts=second, step=20)]


def test_fires_on_sorted_classes():
    (finding,) = judge(*sorted_looks())
    assert finding.message == (
        "The batches come sorted by target: two samples of a batch have the same target in 100% of"
        " the cases, two of different batches in 11%."
    )
    assert finding.where == "targets"
    assert finding.severity == Severity.WARNING


def test_fires_on_sorted_floats():
    looks = [
        batch(
            inputs(),
            targets(*(step + i / 40 for i in range(32)), integer=False, adjacent=0.01),
            step=step,
        )
        for step in range(10)
    ]
    (finding,) = judge(*looks)
    assert "% of the variance of the targets lies between batches" in finding.message
    assert finding.severity == Severity.WARNING


def test_fires_on_the_same_order():
    (finding,) = judge(*repeated())
    assert finding.message == (
        "Epoch 1 starts with the same 4 batches in the same order as epoch 0."
    )
    assert finding.severity == Severity.WARNING
    assert "shuffle=True" in finding.fix


def test_names_the_seed_where_the_loader_shuffles():
    (finding,) = judge(*repeated(), order="random")
    assert "the same seed" in finding.fix


@pytest.mark.parametrize(
    ("looks", "loader"),
    [
        pytest.param(repeated(adjacent=0.1), {}, id="time series"),
        pytest.param(
            repeated(integer=False, labels=(0.1, 0.2, 0.3, 0.4), adjacent=0.2),
            {},
            id="targets that follow each other",
        ),
        pytest.param(repeated(features=16, labels=()), {}, id="a target for each token"),
        pytest.param(repeated(), {"known": False}, id="stream"),
        pytest.param(repeated(), {"order": "own"}, id="sampler of one's own"),
        pytest.param(sorted_looks(adjacent=0.1), {}, id="sorted as in time"),
        pytest.param(sorted_looks(), {"order": "own"}, id="batches of a class by design"),
    ],
)
def test_only_information(looks, loader):
    (finding,) = judge(*looks, **loader)
    assert finding.severity == Severity.INFO


@pytest.mark.parametrize(
    ("looks", "loader"),
    [
        pytest.param([batch(step=step) for step in range(20)], {}, id="shuffled"),
        pytest.param(repeated(4.5, 1.5, 9.5, 2.5), {}, id="another order"),
        pytest.param(repeated()[:1], {}, id="one epoch"),
        pytest.param(repeated(), {"overfit": True}, id="overfit a few batches"),
        pytest.param(sorted_looks()[:7], {}, id="few looks"),
        pytest.param(
            [batch(starts=epoch_starts(e, 7.5, 7.5, 7.5, 7.5)) for e in range(2)],
            {},
            id="batches that are all alike",
        ),
        pytest.param(
            [batch(starts=epoch_starts(e, 1.5, 2.5)) for e in range(2)], {}, id="few batches"
        ),
        pytest.param(
            [batch(inputs(), targets(*[1] * 32), step=i) for i in range(10)], {}, id="one class"
        ),
    ],
)
def test_silent(looks, loader):
    assert not judge(*looks, **loader)


def visited(*epochs, adjacent=1.0):
    """Return looks at batches of one class each, by index and class, in these epochs."""
    return [
        batch(inputs(adjacent=adjacent), targets(*[label] * 32), epoch=e, index=index, step=e * 20)
        for e, epoch in enumerate(epochs)
        for index, label in epoch
    ]


ROUND = [(i, i // 4) for i in range(12)]
AGAIN = [(1, 0), (5, 1), (7, 1), (11, 2)]


def test_fires_on_a_sampler_that_goes_class_by_class():
    _, finding = judge(*visited(ROUND, AGAIN), order="own")
    assert finding.severity == Severity.WARNING
    assert finding.where == "sampler"
    assert "each of the 3 classes" in finding.message


@pytest.mark.parametrize(
    ("looks", "loader"),
    [
        pytest.param(visited(ROUND + AGAIN), {}, id="one epoch"),
        pytest.param(visited(ROUND, [(1, 2), (5, 0), (7, 1), (11, 0)]), {}, id="at other places"),
        pytest.param(visited(ROUND, [(1, 0), (2, 0), (2, 0), (3, 0)]), {}, id="only its start"),
        pytest.param(visited(ROUND, AGAIN[:3]), {}, id="few looks"),
        pytest.param(visited([(i, i % 3) for i in range(12)], AGAIN), {}, id="in turns"),
        pytest.param(visited(ROUND, AGAIN, adjacent=0.1), {}, id="time series"),
        pytest.param(visited(ROUND, AGAIN), {"known": False}, id="stream"),
    ],
)
def test_a_sampler_with_classes_in_another_order(looks, loader):
    found = judge(*looks, **{"order": "own"} | loader)
    assert {f.severity for f in found} <= {Severity.INFO}
