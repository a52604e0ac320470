"""One training step of a copy, overheard: what modules took and gave, and what met in a loss."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_debug.experiments.batches import duplicate
from lightning_debug.experiments.calls import MOST_CALLS, Call
from lightning_debug.experiments.isolation import seed
from lightning_debug.experiments.pairs import Pair, paired
from lightning_debug.experiments.replica import SEED, NotApplicableError, Replica
from lightning_debug.taps.statistics import tensors_in

ADAPTING = frozenset(["grad", "backward"])
MOST_PAIRS = 64
ROUNDING = 1e-9


@dataclass(eq=False, slots=True)
class Trial:
    """What was heard of one training step.

    Attributes:
        calls: Runs of modules, in the order in which they began.
        pairs: Predictions and targets, in order.
        losses: What the step would call backward on.
        functions: Names of the functions of torch that each call made itself, outside the modules
            that it called, by the identity of the call; 0 for the training step.
        learned: Identities of the tensors given to modules that were made with weights.
        drawn: Whether the step has drawn random numbers.
    """

    calls: list[Call] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    functions: dict[int, set[str]] = field(default_factory=dict)
    learned: set[int] = field(default_factory=set)
    drawn: bool = False

    @property
    def outermost(self) -> list[Call]:
        """Return the calls that the training step made itself, of modules with weights."""
        return [
            call
            for call in self.calls
            if call.parent is None and any(True for _ in call.module.parameters())
        ]

    def like(self, other: Trial) -> bool:
        """Tell whether the same modules and losses ran in another trial, in the same order."""
        return [c.path for c in self.calls] == [c.path for c in other.calls] and [
            (p.function, p.place) for p in self.pairs
        ] == [(p.function, p.place) for p in other.pairs]


Nudge = Callable[[Module, Any], Any]


def heard(
    replica: Replica,
    batch: Any,
    *,
    nested: bool = False,
    nudge: Nudge | None = None,
    normed: bool = False,
) -> Trial:
    """Run the training step of a replica once and listen.

    A batch norm that takes its statistics from the batch is made to take none, so that what is
    left of a dependence between samples or positions is not its. Nothing is kept of what follows
    once the step has computed gradients itself: it may depend on everything.

    Args:
        replica: In the mode in which it is to run.
        batch: What the step is given.
        nested: Whether to keep the calls that modules make, too.
        nudge: Gets each module that ran and its output, and returns the output to go on with.
        normed: Whether batch norms are left as they are.

    Raises:
        NotApplicableError: If the step fails.
    """
    return replica.forward(lambda: _heard(replica, batch, nested, nudge, normed))


def _heard(replica: Replica, batch: Any, nested: bool, nudge: Nudge | None, normed: bool) -> Trial:
    trial, running, kept = Trial(), list[Call](), set[int]()

    def enter(module: Module, args: Any, kwargs: Any) -> None:
        parent = running[-1] if running else None
        call = Call(paths.get(id(module), ""), module, (), {}, parent)
        running.append(call)
        few = len(trial.calls) < MOST_CALLS and not ear.adapted
        if few and (nested or parent is None):
            kept.add(id(call))
            call.args, call.kwargs = duplicate(args), duplicate(kwargs)
            trial.calls.append(call)
            given = tensors_in((args, kwargs))
            twins = zip(given, tensors_in((call.args, call.kwargs)), strict=False)
            trial.learned.update(id(twin) for tensor, twin in twins if tensor.requires_grad)

    def leave(module: Module, args: Any, kwargs: Any, out: Any) -> Any:
        changed = nudge(module, out) if nudge is not None else out
        while running:
            call = running.pop()
            if call.module is module:
                if id(call) in kept:
                    call.out = duplicate(changed)
                break
        return changed

    ear, paths = _Ear(trial, running, normed), replica.paths()
    handles: list[RemovableHandle] = []
    for module in replica.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        seed(SEED)  # as a replica does before each run
        fresh = _drawn_so_far()
        with ear:
            trial.losses = [loss.detach() for loss in replica.losses(batch)]
        trial.drawn = _drawn_so_far() != fresh
    finally:
        for handle in handles:
            handle.remove()
    return trial


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Return where two tensors of one shape differ, by more than rounding.

    Raises:
        NotApplicableError: If there are values that are not finite in one of them only.
    """
    if before.shape != after.shape:
        raise NotApplicableError("the shapes depend on the values")
    if not (before.is_floating_point() or before.is_complex()):
        return before != after
    finite = before.isfinite()
    if not torch.equal(finite, after.isfinite()):
        raise NotApplicableError("some values are not finite")
    size = before[finite].abs().max() if bool(finite.any()) else before.new_zeros(())
    return ((before - after).abs() > ROUNDING * size) & finite


def matched(before: Any, after: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of two values that are built alike, side by side.

    Raises:
        NotApplicableError: If they are not.
    """
    left, right = list(tensors_in(before)), list(tensors_in(after))
    if len(left) != len(right):
        raise NotApplicableError("what modules take and give depends on the values")
    return list(zip(left, right, strict=True))


class _Ear(TorchFunctionMode):
    """Hears which functions run where, and what they compare.

    Attributes:
        adapted: Whether the step has computed gradients itself, and may use them in what follows.
    """

    def __init__(self, trial: Trial, running: Sequence[Call], normed: bool) -> None:
        super().__init__()
        self._trial = trial
        self._running = running
        self._normed = normed
        self.adapted = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, and listen."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ADAPTING:
            self.adapted = True
        if name == "batch_norm" and not self._normed:
            args, kwargs = _without_statistics(func, args, kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, (Tensor, tuple)) and not self.adapted:
            call = self._running[-1] if self._running else None
            self._trial.functions.setdefault(id(call) if call else 0, set()).add(name)
            if len(self._trial.pairs) < MOST_PAIRS:
                place = call.path if call else "training_step"
                pair = paired(func, name, args, kwargs, place or "model", out)
                if pair is not None:
                    self._trial.pairs.append(pair)
        return out


def _drawn_so_far() -> tuple[object, ...]:
    """Return the states of the generators that a step draws from, to be compared."""
    states = [
        g.get_state().numpy().tobytes()
        for g in (torch.default_generator, *torch.cuda.default_generators)
    ]
    _, numbers, *rest = np.random.get_state()
    return states, random.getstate(), np.asarray(numbers).tobytes(), rest


def _without_statistics(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    try:
        bound = inspect.signature(func).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, dict(kwargs)
    bound.apply_defaults()
    options = bound.arguments
    if options.get("training"):
        channels = options["input"].shape[1]
        options["running_mean"] = options["input"].new_zeros(channels)
        options["running_var"] = options["input"].new_ones(channels)
        options["training"] = False
    return bound.args, dict(bound.kwargs)
