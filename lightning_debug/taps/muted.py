"""Loss terms that the training step multiplies by zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_debug.taps.functions import Listener
from lightning_debug.taps.statistics import bare
from lightning_debug.taps.transfer import Entry, Ledger

MOST = 32


class MutedTap(Listener):
    """Hears of factors of exactly 0 on scalars that carry a gradient.

    A term is switched off that way: its weight is still 0, it is left out of an experiment, or
    unused parameters are given a gradient for the sake of distributed training.
    """

    names = frozenset({"mul", "multiply", "__mul__", "__rmul__"})

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._off = False
        self._factors: list[Entry] = []

    def begin(self, ledger: Ledger) -> None:
        """Start a look."""
        self._ledger = ledger
        self._off = False
        self._factors = []

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Note the factor of a loss term."""
        if not isinstance(out, Tensor) or out.ndim or not out.requires_grad:
            return
        for value in (*args, *kwargs.values()):
            if not isinstance(value, Tensor):
                self._off = self._off or value == 0
            elif not value.requires_grad and value.numel() == 1 and len(self._factors) < MOST:
                self._factors.append(self._ledger.note(bare(value).abs()))

    @property
    def off(self) -> bool:
        """Tell whether a term was switched off; once the numbers have arrived."""
        return self._off or any(factor.value == 0.0 for factor in self._factors)
