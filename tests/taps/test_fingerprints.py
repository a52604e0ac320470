"""What tells copies from samples that are alike."""

import pytest
import torch

from lightning_debug.taps.data import ValidationPrintTap
from lightning_debug.taps.fingerprints import apart


def rows(*, digits=None):
    values = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    values = values if digits is None else values.round(decimals=digits)
    return torch.cat([values, values[:8]]).double()


def test_measurements_agree_in_copies_only():
    assert apart(rows()).all()
    assert not apart(rows(digits=1)).any()


def test_one_column_of_measurements_is_enough():
    mixed = torch.cat([rows()[:, :1], rows(digits=1)], dim=1)
    assert apart(mixed).tolist() == [True] + [False] * 8


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        pytest.param([rows()] * 8, True, id="measurements"),
        pytest.param([rows()] * 7 + [rows(digits=1)], False, id="not in all batches"),
        pytest.param([rows()] * 7 + [rows()[:, :4]], False, id="of another width"),
        pytest.param([torch.arange(80).view(40, 2)] * 8, False, id="whole numbers"),
        pytest.param([rows()] * 2, False, id="few"),
        pytest.param([rows()[:1]] * 16, False, id="one a batch"),
        pytest.param([rows()[:, :1]] * 8, False, id="one column"),
    ],
)
def test_of_all_batches(batches, expected):
    tap = ValidationPrintTap()
    tap.begin()
    for index, values in enumerate(batches):
        tap.batch([values], index, 0)
    (found,) = tap.prints()
    assert found.path == "batch[0]"
    assert found.apart is expected
