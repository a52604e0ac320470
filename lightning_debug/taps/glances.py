"""A glance at a step: the sizes of gradients and of updates, with nothing hooked in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from lightning_debug.observation import Glance
from lightning_debug.taps.statistics import dense, local, norms, sample
from lightning_debug.taps.transfer import Ledger, Row
from lightning_debug.taps.wiring import Wiring

SAMPLE = 256
MOST_SAMPLED = 1_000_000


@dataclass(eq=False)
class _Weights:
    """Weights of one optimizer that are sampled before and after its step.

    Attributes:
        parameters: Those with two axes or more, by name; none once they were compared.
        before: A sample of each before the step, shape ``(weights, elements)``.
        counts: How many elements of each were sampled.
        sizes: Norms of these samples, of their changes, and how many elements have changed.
    """

    parameters: dict[str, Parameter]
    before: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    counts: dict[str, int] = field(default_factory=dict)
    sizes: Row = field(default_factory=Row)

    def __post_init__(self) -> None:
        """Sample them."""
        self.before, self.counts = self._samples()

    def compare(self, ledger: Ledger) -> None:
        """Note what has become of them, and let go of them."""
        after, counts = self._samples()
        if counts and counts == self.counts:
            moved = after - self.before
            sizes = [torch.linalg.vector_norm(values, dim=1) for values in (self.before, moved)]
            self.sizes = ledger.note_whole(torch.cat([*sizes, (moved != 0).sum(dim=1).to(moved)]))
        self.parameters, self.before = {}, after[:0]

    def ratios(self) -> dict[str, float]:
        """Return how much each weight has changed, relative to its size."""
        n = len(self.counts)
        norms, changes, changed = (self.sizes.values[i * n : (i + 1) * n] for i in range(3))
        numbers = zip(self.counts.items(), norms, changes, changed, strict=False)
        return {
            # A step touches few rows of a lookup table; the others do not make it smaller.
            name: change / norm * math.sqrt(count / max(1.0, elements))
            for (name, count), norm, change, elements in numbers
            if norm > 0
        }

    def _samples(self) -> tuple[Tensor, dict[str, int]]:
        values = {n: v for n, p in self.parameters.items() if (v := dense(p)) is not None}
        size = min(SAMPLE, max(16, MOST_SAMPLED // max(1, len(values))))
        few = {name: sample(v, size) for name, v in values.items()}
        if not few:
            return torch.empty(0, 0), {}
        double = any(v.dtype is torch.float64 for v in few.values())
        widest = torch.float64 if double else torch.float32
        # The first of all decides on the format of all.
        first = next(iter(few.values())).new_empty(0, dtype=widest)
        table = pad_sequence([first, *few.values()], batch_first=True)[1:]
        return table, {name: v.numel() for name, v in few.items()}


@dataclass(eq=False)
class _Step:
    """A step of one optimizer, its numbers on their way to the host.

    Attributes:
        names, norms: The gradients that were there.
        single: Whether it was the only step in the batch, with gradients of one point.
    """

    optimizer: Optimizer
    names: list[str]
    norms: Row
    weights: _Weights
    lr: float
    single: bool = True


class GlanceTap:
    """Measures the norms of gradients that a step is about to use, and what the step does.

    Costs a few operators for all small parameters together and a few microseconds for each:
    gradients are measured by the dozen, and weights sampled into one table before and after.
    Tensors that are shared out among processes are left out, since only parts of them are here.
    """

    name = "the tap on steps between two looks"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._ledger = Ledger()
        self._steps: dict[int, _Step] = {}
        self._loss = Row()

    def begin(self) -> None:
        """Start with another batch."""
        self._ledger, self._steps, self._loss = Ledger(), {}, Row()

    def before_step(self, optimizer: Optimizer) -> None:
        """Measure the gradients that an optimizer is about to use, and sample its weights."""
        known = self._steps.get(id(optimizer))
        if known is not None:
            known.single = False  # one more step, or a closure that has run again
            return
        held = {n: p for n, p in self._wiring.held_by(optimizer).items() if local(p) is p}
        gradients = {n: v for n, p in held.items() if (v := dense(p.grad)) is not None}
        if not gradients:
            return
        with torch.no_grad():
            rows = norms(list(gradients.values()))
            names = list(gradients)
            self._steps[id(optimizer)] = _Step(
                optimizer,
                [names[place] for places, _ in rows for place in places],
                self._ledger.note_whole(torch.cat([r.to(rows[0][1].device) for _, r in rows])),
                _Weights({n: held[n] for n in gradients if held[n].ndim > 1}),
                max(_number(group.get("lr")) for group in optimizer.param_groups),
            )

    def end(self, loss: Tensor | None) -> None:
        """Compare the weights with what they were, and send the numbers.

        Args:
            loss: That of the batch, if there is one.
        """
        with torch.no_grad():
            if loss is not None:
                self._loss = self._ledger.note_whole(loss.detach().mean().reshape(1))
            for step in self._steps.values():
                if step.single:
                    step.weights.compare(self._ledger)
        self._ledger.send()

    @property
    def fruitless(self) -> bool:
        """Tell whether no optimizer made a step."""
        return not self._steps

    @property
    def arrived(self) -> bool:
        """Tell whether reading would not wait."""
        return self._ledger.arrived

    def observations(self, step: int, epoch: int) -> Iterator[Glance]:
        """Return the numbers of each step; waits for them if they have not arrived."""
        self._ledger.settle()
        steps, self._steps = list(self._steps.values()), {}
        for seen in steps:
            yield Glance(
                step=step,
                epoch=epoch,
                optimizer=self._wiring.label(seen.optimizer),
                gradients=dict(zip(seen.names, seen.norms.values, strict=True)),
                ratios=seen.weights.ratios(),
                lr=seen.lr,
                loss=next(iter(self._loss.values), math.nan),
            )


def _number(value: object) -> float:
    """Return a setting of an optimizer; not if it is a tensor, which lives on a device."""
    return float(value) if isinstance(value, (int, float)) else math.nan
