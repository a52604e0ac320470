"""How weights, gradients and activations are spread, now and then in a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug.observation import Observation
from lightning_debug.picture import Histogram, Picture
from lightning_debug.pixels import evenly
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import dense, first_dense, sample
from lightning_debug.taps.trace import Frame
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.wiring import Wiring

BINS = 30
ELEMENTS = 4096
MOST_PARAMETERS = MOST_MODULES = 64
FIRST = 10


@dataclass(eq=False, slots=True)
class _Draft:
    """A histogram on its way: the smallest and the largest value, and how many are where."""

    kind: str
    place: str
    step: int
    numbers: Sequence[Entry]

    def histogram(self) -> Histogram | None:
        """Return it when it has arrived; None where no value is finite."""
        low, high, *counts = (entry.value for entry in self.numbers)
        if not (math.isfinite(low) and math.isfinite(high)) or not any(counts):
            return None
        if low == high:
            # All values are one: it stands in the middle.
            margin = abs(low) / 2 or 0.5
            low, high = low - margin, high + margin
            counts = [0.0] * BINS
            counts[BINS // 2] = sum(entry.value for entry in self.numbers[2:])
        return Histogram(
            kind=self.kind,
            place=self.place,
            step=self.step,
            low=low,
            high=high,
            counts=tuple(map(int, counts)),
        )


class HistogramTap(LookTap):
    """Draws histograms at the first two looks, and two or three times in each decade of updates.

    Of samples of a few weights, gradients and outputs of modules, evenly chosen.

    Args:
        wiring: Knows the parameters.
        model: The module that is trained.
    """

    name = "the tap on histograms"
    draws = True

    def __init__(self, wiring: Wiring, model: Module) -> None:
        self._wiring = wiring
        self._parameters = _chosen(wiring.parameters)
        self._modules = _modules(model)
        self._next = 0
        self._open = False
        self._step = 0
        self._last = -1
        self._ledger = Ledger()
        self._samples: dict[tuple[str, str], Tensor] = {}
        self._drafts: list[_Draft] = []

    def begin(self, ledger: Ledger, batch: Any, step: int) -> None:
        """Take samples of the weights, if it is time."""
        self._open = step >= self._next
        if self._open:
            self._ledger, self._step, self._next = ledger, step, following(step)
            self._weigh()

    def left(self, frame: Frame, args: Any, out: Any) -> None:
        """Take a sample of what a module gave."""
        if self._open and frame.path in self._modules:
            self._take("activations", frame.path or "", first_dense(out)[1])

    def after_step(self, optimizer: Optimizer) -> None:
        """Take samples of the gradients, as the optimizer used them."""
        if self._open:
            held = self._wiring.held_by(optimizer)
            for name in self._parameters:
                if name in held:
                    self._take("gradients", name, dense(held[name].grad))

    def end(self) -> None:
        """Count the values of the samples, on their devices."""
        if self._open:
            self._open = False
            self._count()

    def rest(self, step: int, epoch: int) -> Iterable[Observation]:
        """Draw the weights as they are at the end of the run."""
        if step > self._last >= 0:
            self._ledger, self._step = Ledger(), step
            self._weigh()
            self._count()
            self._ledger.send()
            self._ledger.settle()
        return ()

    def pictures(self, step: int) -> Iterator[Picture]:
        """Return the histograms that have arrived."""
        drafts, self._drafts = self._drafts, []
        yield from filter(None, (draft.histogram() for draft in drafts))

    def _weigh(self) -> None:
        for name in self._parameters:
            self._take("weights", name, dense(self._wiring.parameters.get(name)))

    def _take(self, kind: str, place: str, values: Tensor | None) -> None:
        if values is not None and (kind, place) not in self._samples:
            # A copy: it is about to change, and a view would hold all of it.
            few = sample(values, ELEMENTS).to(torch.float32, copy=True)
            self._samples[kind, place] = few

    def _count(self) -> None:
        alike = defaultdict(list)
        for key, values in self._samples.items():
            alike[values.device, values.numel()].append(key)
        for keys in alike.values():
            rows = counted(torch.stack([self._samples[key] for key in keys]))
            entries = self._ledger.note_row(rows.flatten())
            for i, (kind, place) in enumerate(keys):
                numbers = entries[i * (BINS + 2) : (i + 1) * (BINS + 2)]
                self._drafts.append(_Draft(kind, place, self._step, numbers))
        self._samples = {}
        self._last = self._step


def following(step: int) -> int:
    """Return the next number of updates to draw at: 1, 10, 20, 50, 100, 200, 500 ..."""
    if step < FIRST:
        return 1 if step < 1 else FIRST
    decade: int = 10 ** (len(str(step)) - 1)
    return next(decade * part for part in (2, 5, 10) if decade * part > step)


@torch.no_grad()
def counted(rows: Tensor) -> Tensor:
    """Return the smallest and the largest value of each row, and how many lie in each bin.

    Args:
        rows: Values of shape (N, M), float32; those that are not finite are left out.

    Returns:
        Shape (N, 2 + 30).
    """
    finite = rows.isfinite()
    low = torch.where(finite, rows, math.inf).amin(dim=1)
    high = torch.where(finite, rows, -math.inf).amax(dim=1)
    # Halves: the range itself may be too large for a number.
    width = (high / 2 - low / 2).clamp_min(torch.finfo(torch.float32).tiny)
    share = (rows / 2 - low[:, None] / 2) / width[:, None]
    bins = (share * BINS).nan_to_num(0.0).clamp(0, BINS - 1).long()
    # What is not finite goes into a bin of its own, which nobody reads.
    bins = torch.where(finite, bins, BINS)
    places = bins + (BINS + 1) * torch.arange(len(rows), device=rows.device)[:, None]
    counts = rows.new_zeros(len(rows) * (BINS + 1))
    counts.index_add_(0, places.flatten(), rows.new_ones(places.numel()))
    kept = counts.view(len(rows), BINS + 1)[:, :BINS]
    return torch.cat([low[:, None], high[:, None], kept], dim=1)


def _chosen(parameters: Mapping[str, Tensor]) -> list[str]:
    """Return the names of parameters to draw: matrices first."""
    matrices = [name for name, parameter in parameters.items() if parameter.ndim > 1]
    others = [name for name in parameters if name not in set(matrices)]
    first = [matrices[i] for i in evenly(len(matrices), MOST_PARAMETERS)]
    room = MOST_PARAMETERS - len(first)
    return first + ([others[i] for i in evenly(len(others), room)] if room else [])


def _modules(model: Module) -> set[str]:
    """Return the paths of leaf modules to draw; attention has parts that never run."""
    leaves: list[str] = []
    attention = "no path"
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            attention = path
            leaves.append(path)
        elif next(module.children(), None) is None and not path.startswith(attention + "."):
            leaves.append(path)
    return {leaves[i] for i in evenly(len(leaves), MOST_MODULES)}
