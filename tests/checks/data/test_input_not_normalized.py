import pytest

from lightning_debug.checks.data.input_not_normalized import InputNotNormalized
from tests.build_data import batch, column, flow


def judge(obs):
    check = InputNotNormalized()
    list(check.on_batch(batch()))
    return list(check.on_data_flow(obs))


def test_fires():
    (finding,) = judge(flow(*(column(i, 80.0, 60.0) for i in range(8))))
    assert finding.message == (
        "What enters net.0 is not normalised: its root mean square is 100 where about 1 is"
        " expected (column 0: mean 80, standard deviation 60)."
    )
    assert finding.where == "net.0"
    assert finding.evidence["output"] == pytest.approx(0.2 * 100 * 8**0.5)


@pytest.mark.parametrize(
    ("obs", "said"),
    [
        pytest.param(
            flow(column(0, 450.0, 150.0), *(column(i) for i in range(1, 8)), normalized=True),
            "column 0 has a mean of 450 and a standard deviation of 150, while a usual column has"
            " a size of 1 (root mean square). It drowns the others.",
            id="one column, even before a norm",
        ),
        pytest.param(
            flow(*(column(i, 8.0, 0.3, pull=0.3) for i in range(8))),
            "the values lie far from zero for how much they vary",
            id="offset",
        ),
        pytest.param(
            flow(*(column(i, 0.0, 1e-4) for i in range(8))),
            "its root mean square is only 0.0001",
            id="tiny",
        ),
        pytest.param(
            flow(*(column(i, 80.0, 60.0) for i in range(3)), kind="conv2d"),
            "(channel 0: mean 80",
            id="channels",
        ),
    ],
)
def test_says_what(obs, said):
    (finding,) = judge(obs)
    assert said in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(flow(*map(column, range(8))), id="standardised"),
        pytest.param(flow(*(column(i, 0.5, 0.3) for i in range(8))), id="0 to 1"),
        pytest.param(flow(*(column(i, 5.0, 6.0) for i in range(8))), id="0 to 16"),
        pytest.param(
            flow(*(column(i, 80.0, 60.0) for i in range(8)), normalized=True), id="a norm follows"
        ),
        pytest.param(
            flow(*(column(i, 80.0, 60.0, pull=1e-3) for i in range(8))), id="weights made for it"
        ),
        pytest.param(flow(*(column(i, 80.0, 60.0) for i in range(8)), derived=False), id="made up"),
        pytest.param(flow(*(column(i, 300.0, 0.0) for i in range(8))), id="constant columns"),
        pytest.param(
            flow(column(0, 40.0, 12.0), *(column(i, 0.01, 0.1, binary=True) for i in range(1, 30))),
            id="age beside a one-hot vector",
        ),
        pytest.param(
            flow(*(column(i, 0.999, 0.03, binary=True) for i in range(8))), id="rare flags"
        ),
        pytest.param(flow(*(column(i, 0.0, 0.005) for i in range(2048))), id="many small columns"),
        pytest.param(flow(*(column(i, 0.0, 1e-3, zeros=0.99) for i in range(8))), id="sparse"),
        pytest.param(flow(column(0, float("nan"), 1.0)), id="not finite"),
        pytest.param(flow(), id="nothing measured"),
    ],
)
def test_silent(obs):
    assert not judge(obs)
