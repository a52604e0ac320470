"""What a loss is held against: constants, and what the logits were multiplied with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_debug.taps.loss_references import temperature


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(lambda a, b, s: s * (a @ b.T), id="from the left"),
        pytest.param(lambda a, b, s: (a @ b.T) * s, id="from the right"),
        pytest.param(lambda a, b, s: s * a @ b.T, id="vectors first"),
        pytest.param(lambda a, b, s: (s * (a @ b.T)).T, id="turned"),
        pytest.param(lambda a, b, s: a @ b.T / (1.0 / s), id="divided"),
    ],
)
def test_learned_temperature(logits: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    scale = torch.tensor(14.0, requires_grad=True)
    found = temperature(logits(a, b, scale))
    assert found is not None
    assert float(found) == pytest.approx(14.0)


def test_no_temperature() -> None:
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    assert temperature(a @ b.T) is None
    assert temperature((a * b) @ b.T) is None
