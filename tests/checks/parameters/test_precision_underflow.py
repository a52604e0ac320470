import pytest

from lightning_debug.checks.parameters.precision_underflow import PrecisionUnderflow
from lightning_debug.observation import Precision
from tests.build_precision import flushed, narrow, scaled
from tests.build_updates import told


def test_steps_that_round_to_nothing():
    (finding,) = told(PrecisionUnderflow(), narrow("a.weight", "b.weight"))
    assert finding.message == (
        "100% of the sampled weights (median of 2 matrices) stay what they were in a step of"
        " AdamW: it is 1.0e-05 (rms) at a learning rate of 1e-05, and numbers in bfloat16 of the"
        " size of these weights are 4.0e-04 apart."
    )


def test_eps_that_is_nothing():
    (finding,) = told(
        PrecisionUnderflow(), narrow(dtype="float16", eps_lost=True, broken=9, driven=0)
    )
    assert finding.message == (
        "eps=1e-08 of AdamW is 0 in float16, so its step divides by 0: 1 parameters, first"
        " net.weight, were finite before it and are not any more."
    )
    assert finding.patience == 1


def test_gradients_that_are_flushed():
    (finding,) = told(PrecisionUnderflow(), flushed(a=1.0, b=0.9, c=0.1))
    assert finding.message == (
        "Gradients are too small for float16: that of a is 100% off what it is when the loss is"
        " multiplied by 65536, and 50% of its elements have become 0; so it is in 2 of 3 weight"
        " matrices."
    )


def test_scale_that_falls():
    falling = scaled(*(65536.0 / 2**i for i in range(13)))
    (finding,) = told(PrecisionUnderflow(), *falling)
    assert finding.message == (
        "The scale of the gradient scaler has fallen from 65536 to 16: it refuses step after"
        " step, because gradients are not finite."
    )
    assert told(PrecisionUnderflow(), *scaled(0.5, 0.5))
    assert not told(PrecisionUnderflow(), *falling[:12])


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([Precision(optimizer="Adam")], id="32 bits"),
        pytest.param([narrow(lost=200)], id="enough elements move"),
        pytest.param([narrow(lost=200, lr=1e-3), narrow()], id="a rate that has come down"),
        pytest.param([narrow(lr=1e-6), narrow()], id="warm-up"),
        pytest.param([narrow(lr=0.0)], id="a rate of 0"),
        pytest.param([narrow(strayed=4)], id="stochastic rounding"),
        pytest.param([narrow(kept=0.1)], id="Kahan summation, weights in 32 bits"),
        pytest.param([narrow(expected=0.1)], id="too few to tell"),
        pytest.param([narrow(step=1e-2)], id="not too small: something else holds them"),
        pytest.param([narrow(matrix=False)], id="norms and biases alone"),
        pytest.param(
            [narrow(dtype="float16", eps_lost=True, driven=0)], id="eps is 0, nothing broke"
        ),
        pytest.param([flushed(a=0.1, b=0.2)], id="small errors of gradients"),
        pytest.param([flushed(a=1.0, b=0.0, c=0.0, d=0.0, e=0.0)], id="few gradients"),
        pytest.param([Precision(skipped="no loss")], id="no experiment"),
        pytest.param(scaled(65536.0, 65536.0), id="a scale that stays"),
        pytest.param(
            scaled(*(2.0 ** (32 - i) for i in range(16))), id="a scale that starts too high"
        ),
        pytest.param(scaled(32768.0, 65536.0), id="a scale that grows"),
    ],
)
def test_silent(looks):
    assert not told(PrecisionUnderflow(), *looks)
