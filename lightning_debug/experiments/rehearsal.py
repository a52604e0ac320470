"""Tries out on a copy what a scheduler makes of the learning rate."""

from __future__ import annotations

import copy
import dis
import functools
import math
import time
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_debug.experiments.isolation import isolated

MOST_CALLS = 20_000
MOST_RATES = 200_000
SECONDS = 0.3
DEPTH = 4
# What a schedule may not do where it is only tried out, and may not go by.
ACTS = {"open", "write", "info", "append", "pop", "update", "next", "random", "rand"}
LIVE = {"global_step", "current_epoch", "callback_metrics", "logged_metrics"}
COMPUTE = {"math", "np", "numpy", "torch"}
CALLED = ("step", "get_lr", "_get_closed_form_lr", "__call__")


class NotTriedError(Exception):
    """The schedule depends on more than the number of calls, or cannot be copied."""


class Rehearsal(NamedTuple):
    """What a scheduler does, call by call.

    Attributes:
        rates: The learning rate after 0, 1, 2 ... calls; of several groups the one that is
            nearest to its peak, scaled to the largest peak.
        ends: Whether it refused the next call.
    """

    rates: tuple[float, ...] = ()
    ends: bool = False


def rehearse(scheduler: object, calls: int) -> Rehearsal:
    """Call a copy of a scheduler as often as the run will, without a trace in the run.

    Returns:
        The learning rates; none where it waits for a metric, reads the state of the run, has been
        called before, or does more than to compute.
    """
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
        return Rehearsal()
    try:
        with isolated(None):
            twin, stage = _twin(scheduler)
            rows, ends = _run(twin, stage, calls)
    except NotTriedError:
        return Rehearsal()
    return Rehearsal(_merged(rows), ends)


class _Stage:
    """Stands in for an optimizer: groups of settings without parameters.

    Args:
        optimizer: Read only.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups = [
            {name: _plain(value) for name, value in group.items() if name != "params"}
            | {"params": []}
            for group in optimizer.param_groups
        ]
        self.defaults = {name: _plain(value) for name, value in optimizer.defaults.items()}
        self.state: dict[Any, Any] = {}
        # What a scheduler asks for before it complains about the order of calls.
        self._opt_called = True

        def step() -> None:
            """Do nothing."""

        step._wrapped_by_lr_sched = step._with_counter = True  # type: ignore[attr-defined]
        self.step = step

    def rates(self) -> list[float]:
        """Return the learning rate of each group."""
        return [float(group["lr"]) for group in self.param_groups]


def _run(twin: Any, stage: _Stage, calls: int) -> tuple[list[list[float]], bool]:
    rows = [stage.rates()]
    end = time.monotonic() + SECONDS
    for count in range(min(calls, MOST_CALLS, MOST_RATES // max(1, len(rows[0])))):
        try:
            twin.step()
        except ValueError:
            return rows, True
        except Exception as error:
            raise NotTriedError from error
        rows.append(stage.rates())
        if not all(map(math.isfinite, rows[-1])) or (count % 64 == 0 and time.monotonic() > end):
            break
    return rows, False


def _merged(rows: list[list[float]]) -> tuple[float, ...]:
    """Make one rate of those of all groups; what is far from its peak everywhere is far."""
    tops = [max(column) for column in zip(*rows, strict=True)]
    size = max(tops, default=0.0)
    held = [i for i, top in enumerate(tops) if top > 0]
    if not held:
        return tuple(max(row, default=0.0) for row in rows)
    return tuple(max(row[i] / tops[i] for i in held) * size for row in rows)


def _twin(scheduler: LRScheduler) -> tuple[Any, _Stage]:
    stage = _Stage(scheduler.optimizer)
    return _Copier(scheduler.optimizer, stage).copy(scheduler), stage


class _Copier:
    """Copies a scheduler with everything that its calls change, and nothing of the model."""

    def __init__(self, optimizer: Optimizer, stage: _Stage) -> None:
        self._known: dict[int, Any] = {id(optimizer): stage}

    def copy(self, value: Any, depth: int = 0) -> Any:
        """Return a copy, or the value itself where nothing of it can change.

        Raises:
            NotTriedError: If it is of a kind that may act on the run.
        """
        if id(value) in self._known:
            return self._known[id(value)]
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, type)):
            return value
        if depth > DEPTH or isinstance(value, Optimizer):
            raise NotTriedError
        if isinstance(value, Tensor):
            return value.detach().clone()
        if isinstance(value, functools.partial):
            _must_be_pure(value.func)
            return value
        if isinstance(value, types.MethodType) and id(value.__self__) in self._known:
            return types.MethodType(value.__func__, self._known[id(value.__self__)])
        if callable(value) and isinstance(value, (types.FunctionType, types.MethodType)):
            _must_be_pure(value)
            return value
        if isinstance(value, (types.BuiltinFunctionType, range)):
            return value
        return self._container(value, depth)

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, Counter):
            return Counter(dict(value))
        if isinstance(value, dict):
            return {key: self.copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, deque)):
            items = [self.copy(item, depth + 1) for item in value]
            return items if isinstance(value, list) else type(value)(items)
        return self._object(value, depth)

    def _object(self, value: Any, depth: int) -> Any:
        own = isinstance(value, LRScheduler)
        if isinstance(value, Module) or not (own or callable(value)):
            raise NotTriedError
        for kind in type(value).__mro__:
            if not kind.__module__.startswith("torch.") and kind is not object:
                for name in CALLED:
                    if name in vars(kind):
                        _must_be_pure(vars(kind)[name], inside=type(value))
        twin = copy.copy(value)
        self._known[id(value)] = twin
        for name, item in vars(value).items():
            twin.__dict__[name] = self.copy(item, depth + (0 if own else 1))
        return twin


def _must_be_pure(function: Any, *, inside: type | None = None, depth: int = 0) -> None:
    """Refuse a function that does more than to compute, as far as its code shows.

    Args:
        function: Whatever is called.
        inside: The class of the copy that it belongs to; it may change that.
        depth: How many calls lie in between.

    Raises:
        NotTriedError: If it does, or goes by the state of the run.
    """
    owner = inside or type(getattr(function, "__self__", None))
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        if isinstance(function, (types.BuiltinFunctionType, type)):
            return
        raise NotTriedError
    if str(function.__module__).startswith("torch."):
        return
    names = set(code.co_names)
    logs = "log" in names and not names & COMPUTE
    if depth > DEPTH or logs or names & LIVE or (names & ACTS and not inside):
        raise NotTriedError
    if any(_keeps(code, inside=inside is not None)):
        raise NotTriedError
    for other in _reached(function, names, owner):
        _must_be_pure(other, inside=inside, depth=depth + 1)


def _reached(function: Any, names: set[str], owner: type) -> Iterator[Any]:
    """Yield the user's functions that a function may call."""
    yield from (m for n in names if (m := _method(owner, n)) and m is not function)
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:
            continue
        if isinstance(held, (types.FunctionType, types.MethodType)) and held is not function:
            yield held
        elif not isinstance(held, (int, float, str, bool, type(None), Mapping, list, tuple)):
            yield from (m for n in names if (m := _method(type(held), n)))
    scope = function.__globals__
    found = (scope.get(name) for name in names)
    yield from (f for f in found if isinstance(f, types.FunctionType) and f is not function)


def _method(kind: type, name: str) -> types.FunctionType | None:
    found = getattr(kind, name, None)
    return found if isinstance(found, types.FunctionType) else None


def _keeps(code: types.CodeType, *, inside: bool) -> Iterator[bool]:
    """Yield whether each operation keeps something beyond the call."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _keeps(constant, inside=inside)
    for operation in dis.get_instructions(code):
        name = operation.opname
        outside = name in ("STORE_GLOBAL", "DELETE_GLOBAL")
        outside |= name == "STORE_DEREF" and operation.argval in code.co_freevars
        yield outside or (not inside and name in ("STORE_ATTR", "STORE_SUBSCR"))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return copy.copy(value)
