"""Weights that change between two epochs, and those that only look so."""

import pytest
import torch
from torch import nn, optim

from lightning_debug.taps.rewrites import RewriteTap
from lightning_debug.taps.transfer import Ledger
from lightning_debug.taps.wiring import Wiring


def rewritten(between, weight=None):
    """Return what is noted of three epochs, with something done to a layer after each."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    with torch.no_grad():
        layer.weight.mul_(1.0 if weight is None else weight)
    tap, ledger = (
        RewriteTap(layer, Wiring(layer, [optim.SGD(layer.parameters(), lr=0.1)])),
        Ledger(),
    )
    for epoch in range(3):
        tap.epoch_starts(epoch)
        with torch.no_grad():
            layer.weight.mul_(2.0)  # a step of the optimizer
        tap.epoch_ends()
        with torch.no_grad():
            between(layer)
    tap.note(ledger)
    ledger.send()
    ledger.settle()
    return [(found.drawn, found.restored) for found in tap.observations()]


@pytest.mark.parametrize(
    ("between", "weight", "shares"),
    [
        pytest.param(lambda layer: None, None, (0.0, 0.0), id="nothing"),
        pytest.param(lambda layer: layer.reset_parameters(), None, (1.0, 0.0), id="drawn anew"),
        pytest.param(lambda layer: layer.weight.div_(2.0), None, (0.0, 1.0), id="restored"),
        pytest.param(lambda layer: layer.weight.mul_(0.9), None, (0.0, 0.0), id="scaled"),
        pytest.param(lambda layer: None, 0.0, (0.0, 0.0), id="zeros"),
    ],
)
def test_what_happens_between_epochs(between, weight, shares):
    assert rewritten(between, weight) == [shares] * 2
