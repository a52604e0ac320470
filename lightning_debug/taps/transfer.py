"""One copy to the host per look, read when it has arrived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

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


class Row:
    """Numbers on their way to the host that belong together.

    Attributes:
        values: The numbers; none before :meth:`Ledger.settle`.
    """

    __slots__ = ("size", "values")

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.values: list[float] = []


@dataclass
class _Load:
    """What one device sends: numbers of entries first, then those of rows."""

    entries: list[Entry] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    whole: list[Tensor] = field(default_factory=list)


def _plain(tensor: Tensor) -> Tensor:
    return tensor if type(tensor) is Tensor else bare(tensor)


class Ledger:
    """Collects scalar tensors during a look and brings them to the host together.

    Reading a number from an accelerator makes the host wait for it. So nothing is read one by
    one: all scalars of a look are put into one tensor per device, copied without blocking.
    """

    def __init__(self) -> None:
        self._scalars: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Entry]]] = {}
        self._loads: defaultdict[torch.device, _Load] = defaultdict(_Load)
        self._copies: list[tuple[Tensor, _Load]] = []
        self._event: torch.cuda.Event | None = None

    def note(self, scalar: Tensor) -> Entry:
        """Put a tensor of one element on the list."""
        scalar, entry = _plain(scalar), Entry()
        tensors, entries = self._scalars.setdefault((scalar.device, scalar.dtype), ([], []))
        tensors.append(scalar if scalar.ndim == 0 else scalar.reshape(()))
        entries.append(entry)
        return entry

    def note_placed(self, rows: Sequence[tuple[Sequence[int], Tensor]]) -> list[Entry]:
        """Put rows on the list whose elements have places of their own, each element an entry.

        Args:
            rows: As :func:`~lightning_debug.taps.statistics.norms` gives them.

        Returns:
            The entries, by their places.
        """
        noted: dict[int, Entry] = {}
        for places, row in rows:
            noted.update(zip(places, self.note_row(row), strict=True))
        return [noted[place] for place in range(len(noted))]

    def note_row(self, row: Tensor) -> list[Entry]:
        """Put a tensor of one axis on the list, each element an entry."""
        load = self._loads[row.device]
        noted = [Entry() for _ in range(row.numel())]
        load.numbers.append(_plain(row))
        load.entries.extend(noted)
        return noted

    def note_whole(self, row: Tensor) -> Row:
        """Put a tensor of one axis on the list, as one."""
        load = self._loads[row.device]
        noted = Row(row.numel())
        load.whole.append(_plain(row))
        load.rows.append(noted)
        return noted

    def send(self) -> None:
        """Start the copies."""
        with torch.no_grad():
            for (device, _), (tensors, entries) in self._scalars.items():
                self._loads[device].numbers.append(torch.stack(tensors))
                self._loads[device].entries.extend(entries)
            for device, load in self._loads.items():
                row = torch.cat([v.to(torch.float32) for v in (*load.numbers, *load.whole)])
                self._copies.append((self._copy(row, device), load))
        self._scalars = {}
        self._loads.clear()

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
        for host, load in self._copies:
            values = host.tolist()
            at = len(load.entries)
            for entry, value in zip(load.entries, values[:at], strict=True):
                entry.settle(value)
            for row in load.rows:
                row.values = values[at : at + row.size]
                at += row.size
        self._copies = []
