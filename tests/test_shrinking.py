import pytest

from lightning_debug.shrinking import Shrinking
from tests.build_updates import gradients, losses


@pytest.mark.parametrize(
    ("values", "sizes", "stuck"),
    [
        pytest.param((2.0, 2.0, 2.1), (8.0, 6.0), True, id="weights shrink, the loss stays"),
        pytest.param((2.0, 1.0, 0.9), (8.0, 6.0), False, id="the loss falls"),
        pytest.param((2.0, 2.0, 2.1), (8.0, 7.9), False, id="weights stay"),
        pytest.param((-2.0, -2.0), (8.0, 6.0), False, id="a loss below zero"),
        pytest.param((), (8.0, 6.0), False, id="no loss"),
    ],
)
def test_stuck(values, sizes, stuck):
    shrinking = Shrinking()
    for size in sizes:
        shrinking.hear_gradients(gradients({"net.weight": {"weight_norm": size}}))
    shrinking.hear_losses(losses(*values))
    assert shrinking.stuck is stuck
