import math

from lightning_debug.checks.data.non_finite_input import NonFiniteInput
from lightning_debug.observation import BrokenTensor
from tests.build_data import batch, inputs, targets

BROKEN = BrokenTensor(path="batch[0]", step=40, epoch=2, index=7)


def test_fires():
    obs = batch(inputs(bad=3), targets(), step=5, harmful=True)
    (finding,) = NonFiniteInput().on_batch(obs)
    assert finding.message == (
        "3 values are NaN or infinite in batch[0] of batch 5 in epoch 0, and the loss or its"
        " gradient became so too."
    )
    assert finding.where == "batch[0]"


def test_fires_where_the_search_found_it():
    (finding,) = NonFiniteInput().on_batch(batch(step=50, broken=(BROKEN, BROKEN)))
    assert finding.message.startswith("batch[0] of batch 7 in epoch 2 holds NaN or infinity.")


def test_silent_where_nothing_is_harmed_then_or_before():
    check = NonFiniteInput()
    assert not list(check.on_batch(batch(inputs(bad=3), targets())))
    assert not list(check.on_batch(batch(inputs(bad=3), targets(), harmful=True)))
    assert not list(check.on_batch(batch(broken=(BROKEN,))))


def test_silent_on_a_mask_of_minus_infinity():
    mask = inputs("batch['mask']", bad=9, low=-math.inf, high=0.0)
    assert not list(NonFiniteInput().on_batch(batch(mask, targets(), harmful=True)))


def test_silent_where_the_batch_is_fine():
    assert not list(NonFiniteInput().on_batch(batch(harmful=True)))
