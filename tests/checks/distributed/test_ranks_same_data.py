import pytest

from lightning_debug.checks.distributed.ranks_same_data import RanksSameData
from lightning_debug.observation import Loader, Ranks, RunStart

ALL = ((0, 1),)


def told(batches, *, same=ALL, targets=(), loader=None, processes=2):
    check = RanksSameData()
    list(check.on_run_start(RunStart(parameters={}, loader=loader or Loader())))
    return [
        list(
            check.on_ranks(
                Ranks(
                    step=step,
                    processes=processes,
                    batch=batch,
                    targets=batch,
                    same_batch=same,
                    same_targets=targets,
                )
            )
        )
        for step, batch in enumerate(batches)
    ]


def test_the_same_batches_in_all_processes():
    looks = told([1.0, 2.0, 3.0])
    assert all(looks)
    assert looks[-1][0].message.startswith("All 2 processes train on the same samples")


def test_some_processes_have_the_same():
    finding = told([1.0, 2.0], same=((1, 3),), processes=4)[-1][0]
    assert "rank 1, 3" in finding.message


def test_the_same_targets_of_other_inputs():
    finding = told([1.0, 2.0], same=(), targets=ALL)[-1][0]
    assert "targets" in finding.message


def test_other_batches():
    assert not any(told([1.0, 2.0, 3.0], same=()))


def test_a_batch_that_never_changes():
    assert not any(told([1.0, 1.0, 1.0])[1:])


@pytest.mark.parametrize("loader", [Loader(overfit=True), Loader(known=True, batches=1)])
def test_few_data(loader):
    assert not any(told([1.0, 2.0, 3.0], loader=loader))
