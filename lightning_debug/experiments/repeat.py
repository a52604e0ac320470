"""The same step again, from the same state: whether it gives the same, and if not, why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from lightning_debug.experiments.batches import samples, take
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.sources import (
    CLOCK,
    ENTROPY,
    IDENTITY,
    MEMORY,
    Drawing,
    Drawn,
    Sources,
)
from lightning_debug.observation import StepRepeat
from lightning_debug.taps.statistics import tensors_in

# What another order of summation may change, in units of the last place.
IN_LOSSES, IN_GRADIENTS = 16, 1024
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MOST_EVENTS = 20_000
TRIES = 4
FEWEST = 4  # samples

Digest = tuple[int, ...]


@dataclass(slots=True)
class _Event:
    """A module was entered or left; what called it, and a digest of what it took or gave."""

    path: str
    above: str
    entered: bool
    digest: Digest


@dataclass(slots=True)
class _Run:
    """What one run of the training step gave."""

    losses: list[Tensor]
    gradients: list[Tensor | None]
    heard: Mapping[str, Drawn]
    events: list[_Event] = field(default_factory=list)

    @property
    def total(self) -> float:
        return float(sum(float(loss) for loss in self.losses))


def repeat(replica: Replica, batch: Any, *, step: int, epoch: int) -> StepRepeat:
    """Run a training step several times from the same weights, batch and seeds.

    The second time clocks are ahead, memory that is not filled holds other numbers, and hashes
    are others; what comes from the operating system differs by itself. Where the result differs,
    all of these are held fixed: if it repeats then, and changes again with one of them alone, that
    one is the source. What differs for no known reason may be state that a copy cannot bring back,
    and nothing is said of it, unless the difference is no more than rounding.

    Args:
        replica: In the formats of the run, inside of its :meth:`~.Replica.working`.
        batch: What the training step is about to get.
        step: Optimizer updates made so far.
        epoch: Epoch, counted from 0.

    Raises:
        NotApplicableError: If it gives nothing that could be compared, or one cannot tell why it
            differs.
    """
    natural = Sources()
    batch, first = _begun(replica, batch, natural)
    if not first.losses:
        raise NotApplicableError("the training step gives no loss")
    if not all(bool(loss.isfinite()) for loss in first.losses):
        raise NotApplicableError("the loss is not finite")
    parameter = next(iter(replica.parameters.values()))
    found = StepRepeat(step=step, epoch=epoch, device=parameter.device.type)
    # What is drawn from few possibilities may be the same by chance.
    for times in range(1, 1 + (TRIES if first.heard else 1)):
        second = _varied(replica, batch, natural, times)
        if not _same(first, second):
            return _explained(replica, batch, first, second, found)
    return found


def _begun(replica: Replica, batch: Any, sources: Sources) -> tuple[Any, _Run]:
    """Run it on fewer samples where they are much for it, if it can do with fewer."""
    with contextlib.suppress(NotApplicableError):
        size = samples(batch)
        count = replica.load.samples(batch, size, size, FEWEST)
        if count < size:
            few = take(batch, count)
            return few, _run(replica, few, sources)
    return batch, _run(replica, batch, sources)


def _varied(replica: Replica, batch: Any, sources: Sources, times: int) -> _Run:
    """Run it with other clocks and the like; with the same where it cannot do with others."""
    with contextlib.suppress(NotApplicableError):
        return _run(replica, batch, sources.other(CLOCK, MEMORY, IDENTITY, times=times))
    return _run(replica, batch, sources)


def _explained(
    replica: Replica, batch: Any, first: _Run, second: _Run, found: StepRepeat
) -> StepRepeat:
    """Find out what makes two runs differ.

    Raises:
        NotApplicableError: If one cannot tell.
    """
    fixed = Sources(entropy=1)
    held = _run(replica, batch, fixed, listen=True)
    again = _run(replica, batch, fixed, listen=True)
    left = _compared(held, again, replica)
    if left is not None and not left["rounding"] and found.device == "cpu":
        raise NotApplicableError(
            "another run gives another loss, which a state that cannot be copied may explain"
        )
    for source in (ENTROPY, CLOCK, MEMORY, IDENTITY):
        other = _other(replica, batch, fixed, source, held) if source in held.heard else None
        details = _compared(held, other, replica) if other is not None else None
        if other is not None and details is not None:
            seen = _compared(first, second, replica) or details
            drawn = held.heard[source]
            more = {"source": source, "line": drawn.line, "code": drawn.code}
            clearest = max(seen, details, key=lambda pair: (pair["change"], pair["gradient"]))
            return _with(found, clearest, place=_place(held, other, replica), **more)
    if left is None:
        raise NotApplicableError("another run gave another loss, and those after it did not")
    return _with(found, left, place=_place(held, again, replica))


def _other(replica: Replica, batch: Any, fixed: Sources, source: str, held: _Run) -> _Run | None:
    """Return a run that differs for another value of one source, if that makes a difference."""
    for times in range(1, 1 + TRIES):
        with contextlib.suppress(NotApplicableError):
            other = _run(replica, batch, fixed.other(source, times=times), listen=True)
            if _same(held, other):
                continue
            back = _compared(held, _run(replica, batch, fixed), replica)
            far = _compared(held, other, replica)
            # Where kernels do not repeat either, it must be more than they do.
            known = back is None or (back["rounding"] and far is not None and not far["rounding"])
            return other if known else None
    return None


def _compared(one: _Run, other: _Run, replica: Replica) -> dict[str, Any] | None:
    """Return how two runs differ; None if they do not."""
    if _same(one, other):
        return None
    change, gradient = _distances(one, other)
    return {
        "losses": (one.total, other.total),
        "change": change,
        "gradient": gradient,
        "rounding": _is_rounding(change, gradient, replica, one),
    }


def _with(found: StepRepeat, details: Mapping[str, Any], **more: str) -> StepRepeat:
    fields: dict[str, Any] = {**details, **more}
    return StepRepeat(step=found.step, epoch=found.epoch, device=found.device, **fields)


def _run(replica: Replica, batch: Any, sources: Sources, *, listen: bool = False) -> _Run:
    """Run the training step and its backward pass.

    Raises:
        NotApplicableError: If one of them fails.
    """
    with Drawing(sources, replica.module) as drawing, _listening(replica, listen) as events:
        losses = replica.losses(batch)
        try:
            parameters = list(replica.parameters.values())
            gradients = torch.autograd.grad(losses, parameters, allow_unused=True) if losses else ()
        except RuntimeError as error:
            raise NotApplicableError(f"the loss of a copy has no gradient: {error}") from error
    return _Run([x.detach() for x in losses], list(gradients), drawing.heard, events)


@contextlib.contextmanager
def _listening(replica: Replica, listen: bool) -> Iterator[list[_Event]]:
    """Note what modules take and give, as digests."""
    events: list[_Event] = []
    if not listen:
        yield events
        return
    paths, running = replica.paths(), [""]

    def enter(module: Module, args: Any, kwargs: Any) -> None:
        path = paths.get(id(module), "")
        if len(events) < MOST_EVENTS:
            events.append(_Event(path, running[-1], True, _digest((args, kwargs))))
        running.append(path)

    def leave(module: Module, args: Any, kwargs: Any, out: Any) -> None:
        running.pop() if len(running) > 1 else None
        if len(events) < MOST_EVENTS:
            path = paths.get(id(module), "")
            events.append(_Event(path, running[-1], False, _digest(out)))

    handles = []
    for module in replica.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield events
    finally:
        for handle in handles:
            handle.remove()


def _digest(value: Any) -> Digest:
    """Return a number for each tensor that is the same for the same bits."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        return tuple(_bits(t) for t in tensors_in(value) if t.layout is torch.strided)


def _bits(tensor: Tensor) -> int:
    flat = tensor.detach().resolve_conj().contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    return int(flat.view(INTEGERS[flat.element_size()]).sum(dtype=torch.int64))


def _place(one: _Run, other: _Run, replica: Replica) -> str:
    """Return the module in which two runs part; the training step if it is in none."""
    for a, b in zip(one.events, other.events, strict=False):
        if (a.path, a.entered) != (b.path, b.entered):
            return a.above or "training_step"
        if a.digest != b.digest:
            return (a.above if a.entered else a.path) or "training_step"
    if not _equal(one.losses, other.losses):
        return "training_step"
    pairs = zip(replica.parameters, one.gradients, other.gradients, strict=False)
    apart = [name for name, a, b in pairs if not _equal([a], [b])]
    return apart[-1].rpartition(".")[0] if apart else "training_step"


def _same(one: _Run, other: _Run) -> bool:
    return _equal(one.losses, other.losses) and _equal(one.gradients, other.gradients)


def _equal(ones: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> bool:
    """Tell whether tensors are the same bit for bit; what is not a number is itself."""
    return len(ones) == len(others) and all(
        a is b or (a is not None and b is not None and _identical(a, b))
        for a, b in zip(ones, others, strict=True)
    )


def _identical(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided or other.layout is not torch.strided:
        one, other = one.to_dense(), other.to_dense()
    return torch.equal(one, other) or (
        one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    )


def _distances(one: _Run, other: _Run) -> tuple[float, float]:
    """Return how far losses and gradients are apart, relative to their size."""
    size = max(abs(one.total), abs(other.total))
    change = abs(one.total - other.total) / size if size else 0.0
    apart = whole = 0.0
    for a, b in zip(one.gradients, other.gradients, strict=False):
        if a is not None and b is not None:
            a, b = a.to_dense().double(), b.to_dense().double()
            apart += float((a - b).square().sum())
            whole += float(a.square().sum())
    return change, (apart / whole) ** 0.5 if whole else 0.0


def _is_rounding(change: float, gradient: float, replica: Replica, run: _Run) -> bool:
    kinds = {p.dtype for p in replica.parameters.values()} | {x.dtype for x in run.losses}
    device = next(iter(replica.parameters.values())).device.type
    if torch.is_autocast_enabled(device):
        kinds.add(torch.get_autocast_dtype(device))
    unit = max((torch.finfo(kind).eps for kind in kinds if kind.is_floating_point), default=0.0)
    return change <= IN_LOSSES * unit and gradient <= IN_GRADIENTS * unit
