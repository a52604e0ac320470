import pytest

from lightning_debug.checks import MemoryGrowth
from lightning_debug.observation import Holder, KeptGraphs


def seen(steps, *holders, step=100, epoch=2, final=False):
    return list(
        MemoryGrowth().on_kept_graphs(
            KeptGraphs(step=step, epoch=epoch, steps=steps, holders=holders, final=final)
        )
    )


PAST = tuple((step, 0) for step in range(1, 9))


def test_graphs_of_past_epochs_are_told_with_what_holds_them():
    [found] = seen(PAST, Holder(place="self.mean"), Holder(place="self.history", count=90))
    assert found.where == "self.mean"
    assert "self.history holds 90 tensors with their graphs" in found.message
    assert "since update 1 are still in memory after 100 updates" in found.message
    assert found.evidence == {"graphs": 8.0, "oldest": 1.0, "tensors": 91.0}


def test_a_chain_that_nothing_in_the_model_holds_is_told_too():
    [found] = seen(PAST)
    assert found.where == "training_step"
    assert "outside the model" in found.message


def test_when_a_run_of_one_epoch_is_over_all_of_it_counts():
    assert seen(PAST, epoch=0) == []
    assert len(seen(PAST, epoch=0, final=True)) == 1


@pytest.mark.parametrize(
    ("steps", "holders", "step"),
    [
        pytest.param((), (), 100, id="nothing is kept"),
        pytest.param(PAST[:5], (), 100, id="a few are kept"),
        pytest.param(tuple((s, 2) for s in range(60, 90)), (), 100, id="of this epoch"),
        pytest.param(PAST, (), 12, id="a few updates ago"),
        pytest.param(PAST, (Holder(place="self.recent", bounded=True),), 100, id="bounded"),
    ],
)
def test_silent(steps, holders, step):
    assert seen(steps, *holders, step=step) == []
