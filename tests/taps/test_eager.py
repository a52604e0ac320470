"""Compiled code is held back for as long as anybody asks, and no longer."""

from __future__ import annotations

import pytest
from torch._dynamo import eval_frame

from lightning_debug.taps.eager import Eagerly


def stance() -> str:
    name: str = eval_frame._stance.stance
    return name


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_asks_may_go_in_any_order(order: tuple[int, int]) -> None:
    before = stance()
    asking = [Eagerly(), Eagerly()]
    for one in asking:
        one.__enter__()
    asking[order[0]].__exit__()
    assert stance() == "force_eager"
    asking[order[1]].__exit__()
    assert stance() == before
