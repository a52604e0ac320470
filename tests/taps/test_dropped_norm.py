"""What is kept on the way from a dropout to a batch norm, and when nothing is."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.taps.dropped_norm import DroppedNormTap
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Ledger


def dropped(tap):
    """Drop something of a tensor that nobody else keeps; tell whether it is still there."""
    source = torch.randn(8, 4)
    out = F.dropout(source, 0.5)
    tap.after(F.dropout, (source, 0.5), {}, out)
    kept = weakref.ref(source.untyped_storage())
    del source
    return kept() is not None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.LayerNorm(4)), False),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)), True),
    ],
)
def test_keeps_what_was_dropped_of_only_where_a_batch_norm_may_follow(model, expected):
    tap = DroppedNormTap(Trace({}), model)
    tap.begin(Ledger(), wanted=True)
    assert dropped(tap) == expected


def test_a_batch_norm_without_a_module_counts_from_the_next_look_on():
    tap = DroppedNormTap(Trace({}), nn.Linear(4, 4))
    tap.begin(Ledger(), wanted=True)
    x = torch.randn(8, 4)
    tap.after(F.batch_norm, (x, None, None, None, None, True), {}, x)
    assert not dropped(tap)
    tap.begin(Ledger(), wanted=True)
    assert dropped(tap)
