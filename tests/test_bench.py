"""The bench of ``make bench`` runs; what it measures depends on the machine."""

import pytest

from tests.bench.growth import slope
from tests.bench.timing import compare


@pytest.mark.parametrize("arm", ["every step", "grad_norm logged"])
def test_two_trainings_take_turns(arm: str) -> None:
    ratio = compare("mlp", arm, pairs=2, steps=3, warm=2)
    assert len(ratio.pairs) == 2
    assert all(pair > 0.0 for pair in ratio.pairs)
    assert ratio.bare > 0.0


def test_a_training_that_fails_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="a training of the bench failed"):
        compare("mlp", "no such arm", pairs=1, steps=1, warm=1)


def test_the_slope_of_a_power_law() -> None:
    assert slope([1.0, 10.0, 100.0], [3.0, 30.0, 300.0]) == pytest.approx(1.0)
    assert slope([2.0, 4.0, 8.0], [1.0, 4.0, 16.0]) == pytest.approx(2.0)
