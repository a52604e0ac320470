"""One copy to the host per look, read when it has arrived."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_debug.taps.statistics import bare


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


def _plain(tensor: Tensor) -> Tensor:
    return tensor if type(tensor) is Tensor else bare(tensor)


class Ledger:
    """Collects scalar tensors during a look and brings them to the host together.

    Reading a number from an accelerator makes the host wait for it. So nothing is read one by
    one: all scalars of a look are put into one tensor per device, copied without blocking.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Entry]]] = {}
        self._vectors: dict[torch.device, tuple[list[Tensor], list[Entry]]] = {}
        self._copies: list[tuple[Tensor, list[Entry]]] = []
        self._event: torch.cuda.Event | None = None

    def note(self, scalar: Tensor) -> Entry:
        """Put a tensor of one element on the list."""
        scalar, entry = _plain(scalar), Entry()
        tensors, entries = self._rows.setdefault((scalar.device, scalar.dtype), ([], []))
        tensors.append(scalar if scalar.ndim == 0 else scalar.reshape(()))
        entries.append(entry)
        return entry

    def note_all(self, scalars: Sequence[Tensor]) -> list[Entry]:
        """Put several tensors of one element each on the list."""
        return [self.note(scalar) for scalar in scalars]

    def note_row(self, row: Tensor) -> list[Entry]:
        """Put a tensor of one axis on the list, each element an entry."""
        tensors, entries = self._vectors.setdefault(row.device, ([], []))
        noted = [Entry() for _ in range(row.numel())]
        tensors.append(_plain(row))
        entries.extend(noted)
        return noted

    def send(self) -> None:
        """Start the copies."""
        devices: dict[torch.device, tuple[list[Tensor], list[Entry]]] = {}
        with torch.no_grad():
            for (device, _), (tensors, entries) in self._rows.items():
                rows, noted = devices.setdefault(device, ([], []))
                rows.append(torch.stack(tensors).to(torch.float32))
                noted.extend(entries)
            for device, (vectors, entries) in self._vectors.items():
                rows, noted = devices.setdefault(device, ([], []))
                rows.extend(vector.to(torch.float32) for vector in vectors)
                noted.extend(entries)
            for device, (rows, noted) in devices.items():
                self._copies.append((self._copy(torch.cat(rows), device), noted))
        self._rows, self._vectors = {}, {}

    def _copy(self, row: Tensor, device: torch.device) -> Tensor:
        if device.type != "cuda":
            return row
        host = torch.empty(row.shape, dtype=row.dtype, pin_memory=True)
        host.copy_(row, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        self._event.record()
        return host

    @property
    def arrived(self) -> bool:
        """Tell whether reading would not wait."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """Hand the numbers to their entries; waits for the copies if they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
        for host, entries in self._copies:
            for entry, value in zip(entries, host.tolist(), strict=True):
                entry.settle(value)
        self._copies = []
