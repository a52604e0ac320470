"""Numbers on their way to the host: whoever noted a number gets that one back."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_debug.taps.statistics import norms
from lightning_debug.taps.transfer import Ledger

# Some are alike and measured together, some stand alone, some are too large to be copied.
SHAPES = [(3, 4), (70, 80), (3, 4), (5,), (3, 4), (3, 4), (1,), (70, 80), (5,)]


@pytest.mark.parametrize("order", [0.0, 2.0, math.inf])
def test_each_norm_comes_back_to_its_tensor(order: float) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(shape) * (i + 1) for i, shape in enumerate(SHAPES)]
    tensors[4][0] = 0.0
    ledger = Ledger()
    entries = ledger.note_placed(norms(tensors, order))
    ledger.send()
    ledger.settle()
    expected = [float(torch.linalg.vector_norm(t, order)) for t in tensors]
    assert [entry.value for entry in entries] == pytest.approx(expected, rel=1e-6)


def test_half_precision_is_measured_in_single() -> None:
    large = torch.full((10, 10), 6e4, dtype=torch.float16)
    ledger = Ledger()
    (entry,) = ledger.note_placed(norms([large]))
    ledger.send()
    ledger.settle()
    assert entry.value == pytest.approx(6e5, rel=1e-3)


def test_nothing_gives_nothing() -> None:
    assert Ledger().note_placed(norms([])) == []


def test_entries_rows_and_placed_norms_do_not_mix() -> None:
    ledger = Ledger()
    alone = ledger.note(torch.tensor(7.0))
    placed = ledger.note_placed([([1, 0], torch.tensor([1.0, 2.0]))])
    row = ledger.note_whole(torch.tensor([3.0, 4.0, 5.0]))
    ledger.send()
    ledger.settle()
    assert alone.value == 7.0
    assert [entry.value for entry in placed] == [2.0, 1.0]
    assert row.values == [3.0, 4.0, 5.0]
