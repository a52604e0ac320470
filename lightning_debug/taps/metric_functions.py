"""The functions of metric libraries that are called for one batch after the other."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from lightning_debug.observation import MetricPass
from lightning_debug.taps.metrics import (
    MOST_BATCHES,
    MOST_STATE,
    is_compiled,
    over_batches,
    without_a_trace,
)
from lightning_debug.taps.statistics import bare
from lightning_debug.taps.validation import batch_size

# Of all predictions together. Those of one query, sound or picture are meant to be averaged.
HOMES = (
    "sklearn.metrics",
    "torchmetrics.functional.classification",
    "torchmetrics.functional.regression",
)
# What has a value for each sample. The rest are settings.
SAMPLES = frozenset(
    ["preds", "target", "y_true", "y_pred", "y_score", "y_prob", "y_proba", "sample_weight"]
)
JOINED = (Tensor, np.ndarray, list)
SETTINGS = (str, int, float, type(None))
LIBRARIES = ("sklearn", "torchmetrics")
WRAPPER = "sklearn.utils._param_validation"  # stands before each function
TRIED_BATCHES = 2

_Key = tuple[CodeType, CodeType, int]


@dataclass(slots=True)
class _Call:
    """One call: who made it, what it was given, and what came of it."""

    key: _Key
    function: Callable[..., Any] | None
    settings: dict[str, Any]
    samples: dict[str, Any]
    result: Tensor | None = None

    @property
    def repeatable(self) -> bool:
        """Tell whether it can be made again on more samples, and gives one number."""
        simple = all(isinstance(value, SETTINGS) for value in self.settings.values())
        joins = all(isinstance(value, JOINED) for value in self.samples.values())
        return simple and joins and bool(self.samples) and None not in (self.function, self.result)


class MetricFunctionTap:
    """Hears metrics that are functions, such as ``torchmetrics.functional.f1_score``.

    In the first pass over the validation data Python tells which functions are called and what
    they return (``sys.setprofile``); where there is no metric among them in the first batches, it
    is asked no more. What a function gives for all samples together can then be held against the
    mean of what it gave for batches.

    Args:
        model: The module whose step calls them.
        failed: Called with an exception of our own; nothing is heard from then on.
    """

    def __init__(self, model: Module, failed: Callable[[Exception], None]) -> None:
        self._model = model
        self._failed = failed
        self._calls: dict[_Key, list[_Call]] = {}
        self._open: dict[FrameType, _Call] = {}
        self._sizes: list[int] = []
        self._values = 0
        self._over = False

    def begin(self) -> None:
        """Start a pass over the validation data."""
        self._over = self._over or bool(self._sizes) or is_compiled(self._model)

    def batch(self, batch: Any) -> None:
        """Start to hear what is called for a batch, unless somebody else profiles the program."""
        heard = len(self._sizes)
        if self._over or heard >= (MOST_BATCHES if self._calls else TRIED_BATCHES):
            self._over = True
        elif sys.getprofile() is None:
            self._sizes.append(batch_size(batch))
            sys.setprofile(self._told)

    def pause(self) -> None:
        """Hear no more of this batch."""
        if sys.getprofile() == self._told:
            sys.setprofile(None)
        self._open.clear()

    def end(self) -> tuple[MetricPass, ...]:
        """Return what became of each function that was called once in each of several batches."""
        self.pause()
        calls, self._calls = self._calls, {}
        return tuple(
            _pass(several, self._sizes)
            for several in calls.values()
            if 1 < len(several) == len(self._sizes) and all(call.repeatable for call in several)
        )

    def _told(self, frame: FrameType, event: str, result: Any) -> None:
        try:
            if event == "call" and _home(frame).startswith(HOMES):
                call = _call(frame)
                if call is not None:
                    self._open[frame] = call
            elif event == "return" and frame in self._open:
                self._note(self._open.pop(frame), result)
        except Exception as error:
            self._over = True
            self._calls.clear()
            self.pause()
            self._failed(error)

    def _note(self, call: _Call, result: Any) -> None:
        call.result = _number(result)
        calls = self._calls.setdefault(call.key, [])
        self._values += sum(map(_length, call.samples.values()))
        other = call.repeatable and calls and calls[0].settings != call.settings
        if other or self._values > MOST_STATE:
            call.samples.clear()
        calls.append(call)


def _home(frame: FrameType) -> str:
    """Return the name of the module whose code a frame runs."""
    return str(frame.f_globals.get("__name__", ""))


def _call(frame: FrameType) -> _Call | None:
    """Return the call that a frame begins, if user code made it."""
    code, user = frame.f_code, frame.f_back
    while user is not None and _home(user) == WRAPPER:
        user = user.f_back
    function = getattr(sys.modules.get(_home(frame)), code.co_name, None)
    if user is None or function is None or _home(user).startswith(LIBRARIES):
        return None
    given = dict(frame.f_locals)
    settings = {name: value for name, value in given.items() if name not in SAMPLES}
    samples = {name: _copied(given[name]) for name in given.keys() - settings.keys()}
    samples = {name: value for name, value in samples.items() if value is not None}
    return _Call((code, user.f_code, user.f_lineno), function, settings, samples)


def _pass(calls: Sequence[_Call], sizes: Sequence[int]) -> MetricPass:
    """Hold what a function gave for each batch against what it gives for all of them."""
    results = [call.result for call in calls if call.result is not None]
    function, settings = calls[0].function, calls[0].settings
    try:
        samples = {n: _joined([call.samples[n] for call in calls]) for n in calls[0].samples}
        with without_a_trace(results[0].device):
            whole = float(function(**samples, **settings))  # type: ignore[misc]  # it is one
    except Exception:  # the function itself, of what it is given
        whole = math.nan
    name = calls[0].key[0].co_name
    return MetricPass(place=name, kind=name, function=True, **over_batches(results, sizes, whole))


def _number(value: Any) -> Tensor | None:
    """Return a single number as a tensor, and nothing else."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
        return bare(value).reshape(()).float()
    return torch.tensor(float(value)) if isinstance(value, float | np.floating) else None


def _copied(value: Any) -> Any:
    """Return the values of samples as they are now."""
    if isinstance(value, Tensor):
        return bare(value).clone()
    return value.copy() if isinstance(value, np.ndarray | list) else value


def _length(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else int(np.size(value))


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return list(itertools.chain(*parts))
