"""One copy to the host per look, read when it has arrived."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Entry:
    """A number on its way to the host."""

    __slots__ = ("_value",)

    def __init__(self, value: float | None = None) -> None:
        self._value = value

    @property
    def value(self) -> float:
        """Return the number; only after :meth:`Ledger.settle`."""
        if self._value is None:
            raise RuntimeError("the ledger has not been settled yet")
        return self._value

    def settle(self, value: float) -> None:
        """Take the number that arrived."""
        self._value = value


class Ledger:
    """Collects scalar tensors during a look and brings them to the host together.

    Reading a number from an accelerator makes the host wait for it. So nothing is read one by
    one: all scalars of a look are put into one tensor per device, copied without blocking.
    """

    def __init__(self) -> None:
        self._tensors: dict[torch.device, list[Tensor]] = {}
        self._entries: dict[torch.device, list[Entry]] = {}
        self._copies: list[tuple[Tensor, list[Entry]]] = []
        self._event: torch.Event | None = None

    def note(self, scalar: Tensor) -> Entry:
        """Put a tensor of one element on the list."""
        entry = Entry()
        self._tensors.setdefault(scalar.device, []).append(scalar)
        self._entries.setdefault(scalar.device, []).append(entry)
        return entry

    def note_all(self, scalars: Sequence[Tensor]) -> list[Entry]:
        """Put several tensors of one element each on the list."""
        return [self.note(scalar) for scalar in scalars]

    def send(self) -> None:
        """Start the copies."""
        with torch.no_grad():
            for device, tensors in self._tensors.items():
                row = torch.cat([t.detach().reshape(1).to(torch.float32) for t in tensors])
                pinned = device.type == "cuda"
                host = torch.empty(row.shape, dtype=row.dtype, pin_memory=pinned) if pinned else row
                if pinned:
                    host.copy_(row, non_blocking=True)
                    self._event = torch.cuda.Event()
                    self._event.record()
                self._copies.append((host, self._entries[device]))
        self._tensors, self._entries = {}, {}

    @property
    def arrived(self) -> bool:
        """Tell whether reading would not wait."""
        return self._event is None or self._event.query()

    def settle(self) -> None:
        """Hand the numbers to their entries; waits for the copies if they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
        for host, entries in self._copies:
            for entry, value in zip(entries, host.tolist(), strict=True):
                entry.settle(value)
        self._copies = []
