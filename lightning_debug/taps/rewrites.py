"""Weights that change between the epochs, when no optimizer runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from lightning_debug.observation import Rewrite, owner
from lightning_debug.taps.statistics import dense, sample
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring

MOST_WEIGHTS = 32
SIZE = 256
EPOCHS = 6
UNRELATED = 0.5


@dataclass(eq=False)
class _Draft:
    epoch: int
    shares: tuple[Tensor, Tensor]
    entries: tuple[Entry, Entry] | None = None


class RewriteTap:
    """Compares the weights at the end of an epoch with those at the start of the next one.

    For the first epochs only: a few elements of a few weight matrices, two small operations each.

    Args:
        model: Asked for its buffers: what is masked is pruned, and may be rewound on purpose.
        wiring: Knows the parameters that optimizers hold.
    """

    def __init__(self, model: Module, wiring: Wiring) -> None:
        self._model = model
        self._wiring = wiring
        self._first: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._left = EPOCHS
        self._drafts: list[_Draft] = []

    def epoch_ends(self) -> None:
        """Sample the weights after the last step of an epoch."""
        if self._left > 0:
            self._last = self._samples()

    def epoch_starts(self, epoch: int) -> None:
        """Compare them with those before the first step of the next one."""
        if self._left <= 0:
            return
        self._left -= 1
        now, before, first = self._samples(), self._last, self._first
        self._first, self._last = first or now, {}
        names = [n for n, v in now.items() if n in before and before[n].shape == v.shape]
        if not names:
            return
        with torch.no_grad():
            alike = [torch.cosine_similarity(now[n], before[n], dim=0) for n in names]
            changed = {n: (now[n] != before[n]).any() for n in names}
            # Zeros are correlated with nothing.
            drawn = (torch.stack(alike).abs() < UNRELATED) & torch.stack(list(changed.values()))
            both = [n for n in names if n in first and first[n].shape == now[n].shape]
            again = [(now[n] == first[n]).all() & changed[n] for n in both]
            restored = torch.stack(again) if again else torch.zeros_like(drawn)
        self._drafts.append(_Draft(epoch, (drawn.float().mean(), restored.float().mean())))

    @property
    def waiting(self) -> bool:
        """Tell whether there is something to note."""
        return any(draft.entries is None for draft in self._drafts)

    def note(self, ledger: Ledger) -> None:
        """Put what has been found on its way to the host."""
        for draft in self._drafts:
            draft.entries = (ledger.note(draft.shares[0]), ledger.note(draft.shares[1]))

    def observations(self) -> tuple[Rewrite, ...]:
        """Return what has been found since the last time; once the numbers have arrived."""
        found = [(d.epoch, d.entries) for d in self._drafts if d.entries is not None]
        self._drafts = [draft for draft in self._drafts if draft.entries is None]
        return tuple(
            Rewrite(epoch=epoch, drawn=drawn.value, restored=restored.value)
            for epoch, (drawn, restored) in found
        )

    def _samples(self) -> dict[str, Tensor]:
        shapes = {(owner(name), b.shape) for name, b in self._model.named_buffers()}
        matrices = {
            name: p
            for name, p in self._wiring.parameters.items()
            if self._counts(p) and (owner(name), p.shape) not in shapes
        }
        few = list(matrices.items())[:: -(-len(matrices) // MOST_WEIGHTS) or 1]
        with torch.no_grad():
            return {
                name: sample(values, SIZE).to(torch.float32, copy=True)
                for name, p in few
                if (values := dense(p)) is not None
            }

    def _counts(self, parameter: Parameter) -> bool:
        held = self._wiring.group_of(parameter) >= 0
        return parameter.requires_grad and parameter.ndim > 1 and held
