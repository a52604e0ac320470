from lightning_debug import Severity
from lightning_debug.checks.distributed.ranks_diverged import RanksDiverged
from lightning_debug.observation import Ranks, RankTensor


def told(check=None, **numbers):
    tensors = {"net.weight": RankTensor(**numbers)}
    return list((check or RanksDiverged()).on_ranks(Ranks(tensors=tensors, compared=9)))


def test_gradients_that_are_not_averaged():
    (finding,) = told(weight=1e-3, gradient=0.2, update=0.1)
    assert finding.severity == Severity.ERROR
    assert finding.where == "net.weight"
    assert "gradients are not averaged" in finding.message
    assert "manual_backward" in finding.fix


def test_a_state_of_the_optimizer_of_ones_own():
    (finding,) = told(weight=1e-3, update=0.1)
    assert "the state or the settings of the optimizer differ" in finding.message


def test_what_differed_from_the_start_is_said_so():
    (finding,) = told(weight=0.1, early=True, update=0.01)
    assert "before the first update" in finding.message


def test_what_something_else_has_changed():
    (finding,) = told(weight=0.1)
    assert "something else than the optimizer" in finding.message


def test_buffers_that_change_are_only_worth_knowing():
    (moving,) = told(kind="buffer", weight=0.1, changes=True)
    (resting,) = told(kind="buffer", weight=0.1, changes=False)
    assert (moving.severity, resting.severity) == (Severity.INFO, Severity.ERROR)


def test_rounding_is_no_difference():
    assert not told(weight=1e-6, gradient=9e-6, update=1e-7)
    assert told(RanksDiverged(tolerance=1e-7), weight=1e-6)


def test_nothing_differs():
    assert not list(RanksDiverged().on_ranks(Ranks(compared=9)))


def test_the_rank_that_stands_out_is_named():
    tensors = {"net.weight": RankTensor(weight=0.1)}
    obs = Ranks(processes=8, tensors=tensors, farthest=(5,))
    (finding,) = RanksDiverged().on_ranks(obs)
    assert "Rank 5 is farthest" in finding.message
    assert finding.evidence["rank"] == "5"
