"""The metric objects of the model: what they held, and how they were called."""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from lightning_debug.observation import MetricPass
from lightning_debug.taps.statistics import bare, tensors_in
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.validation import batch_size

WATCHED_PASSES = 2
MOST_STATE = 1_000_000
MOST_BATCHES = 1000
MOST_METRICS = 64
MOST_VALUES = 128


@dataclass
class _Calls:
    """What one metric was called with, seen by a copy that started empty."""

    copy: Metric
    values: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


class MetricTap:
    """Follows the metric objects of a model through passes over training and validation data.

    Counts of updates are read at the first batch of a pass and at its end. In the first passes
    over the validation data a copy of each metric that is called sees the same batches, so that
    the mean of its values for batches can be held against its value for all of them.

    Args:
        model: The module that owns them.
        failed: Called with an exception of our own; nothing is measured from then on.
    """

    def __init__(self, model: Module, failed: Callable[[Exception], None]) -> None:
        self._model = model
        self._failed = failed
        self._before: dict[str, dict[str, int]] = {}
        self._metrics: dict[int, str] = {}
        self._calls: dict[str, _Calls] = {}
        self._unwatched: set[str] = set()
        self._validated: set[str] = set()
        self._passes = 0
        self._size = 1
        self._handle: RemovableHandle | None = None

    def begin(self, stage: str, *, watch: bool) -> None:
        """Start a pass, at its first batch; ``watch`` tells whether to follow the calls too."""
        metrics = self._found()
        self._before[stage] = {path: metric.update_count for path, metric in metrics.items()}
        if not watch or self._passes >= WATCHED_PASSES or not metrics:
            return
        self._passes += 1
        self._calls, self._unwatched = {}, set()
        self._metrics = {id(metric): path for path, metric in metrics.items() if _plain(metric)}
        # Hooks of ours would make compiled code compile again.
        if not is_compiled(self._model):
            self._handle = register_module_forward_hook(self._called, with_kwargs=True)

    def batch(self, batch: Any) -> None:
        """Note how large the batch is that comes next."""
        self._size = batch_size(batch)

    def pause(self) -> None:
        """Take the hook off."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def end(self, stage: str) -> tuple[MetricPass, ...]:
        """Return what became of each metric in the pass: ``"validation"``, or else training."""
        self.pause()
        before = self._before.pop("validation" if stage == "validation" else "training", {})
        if stage == "validation":
            # They start afresh in the middle of an epoch of training.
            self._validated |= {
                path
                for path, metric in self._found().items()
                if metric.update_count != before.get(path)
            }
        else:
            before = {p: count for p, count in before.items() if p not in self._validated}
        uses = tuple(
            self._use(path, metric, before[path])
            for path, metric in self._found().items()
            if path in before
        )
        self._calls, self._metrics = {}, {}
        return uses

    def _found(self) -> dict[str, Metric]:
        found = ((p, m) for p, m in self._model.named_modules() if isinstance(m, Metric))
        return {path: metric for _, (path, metric) in zip(range(MOST_METRICS), found, strict=False)}

    def _use(self, path: str, metric: Metric, before: int) -> MetricPass:
        updates = metric.update_count
        calls = self._calls.get(path)
        numbers: dict[str, Any] = {}
        if before and updates > before and _small(metric):
            numbers["value"], numbers["values"] = _numbers(metric)
        if calls is not None and len(calls.values) > 1:
            numbers |= over_batches(calls.values, calls.sizes, _numbers(calls.copy)[0])
        return MetricPass(
            place=self._outermost(path),
            kind=type(metric).__name__,
            before=before,
            updates=updates,
            single=len(metric.metric_state) < 2,
            higher_is_better=metric.higher_is_better,
            **numbers,
        )

    def _outermost(self, path: str) -> str:
        """Return the path of the metric of the user's that a metric works for."""
        names = path.split(".")
        paths = (".".join(names[: end + 1]) for end in range(len(names)))
        return next(
            p for p in paths if p == path or isinstance(self._model.get_submodule(p), Metric)
        )

    def _called(
        self, module: Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        path = self._metrics.get(id(module))
        if path is None or path in self._unwatched or not isinstance(module, Metric):
            return
        try:
            with without_a_trace(module.device):
                self._follow(path, module, args, kwargs, out)
        except Exception as error:
            self._metrics, self._calls = {}, {}
            self._failed(error)

    def _follow(
        self, path: str, metric: Metric, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        calls = self._calls.get(path)
        scalar = isinstance(out, Tensor) and out.numel() == 1 and out.is_floating_point()
        if calls is None and scalar and _small(metric):
            calls = self._calls[path] = _Calls(copy.deepcopy(metric))
            calls.copy.reset()
        if calls is None or not scalar or len(calls.values) >= MOST_BATCHES:
            self._unwatched.add(path)
            self._calls.pop(path, None)
            return
        calls.copy.update(*args, **kwargs)
        if not _small(calls.copy):
            self._unwatched.add(path)
            del self._calls[path]
            return
        calls.values.append(bare(out).reshape(()).float())
        calls.sizes.append(self._size)


def read(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Bring logged numbers to the host together; what is no single number is nan."""
    ledger = Ledger()
    entries: dict[str, Entry] = {}
    for name, value in metrics.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            entries[name] = ledger.note(bare(value).float())
        else:
            entries[name] = Entry(float(value) if isinstance(value, (int, float)) else math.nan)
    ledger.send()
    ledger.settle()
    return {name: entry.value for name, entry in entries.items()}


def over_batches(values: Sequence[Tensor], sizes: Sequence[int], whole: float) -> dict[str, Any]:
    """Return the fields of a pass that tell means over batches from the value for all of them."""
    numbers, weights = torch.stack(list(values)).cpu(), torch.tensor(sizes)
    return {
        "batches": len(numbers),
        "batch_mean": float(numbers.mean()),
        "weighted_mean": float((numbers * weights).sum() / weights.sum()),
        "whole": whole,
        "batch_size": int(weights.max()),
    }


def is_compiled(model: Module) -> bool:
    """Tell whether some part of a model is compiled."""
    return any(
        getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod")
        for module in model.modules()
    )


def _plain(metric: Metric) -> bool:
    """Tell whether a second update is cheap and means the same: no network, no wrapper."""
    inner = any(isinstance(module, Metric) for module in metric.modules() if module is not metric)
    return not inner and not any(True for _ in metric.parameters())


def _small(metric: Metric) -> bool:
    return sum(tensor.numel() for tensor in tensors_in(metric.metric_state)) <= MOST_STATE


def _numbers(metric: Metric) -> tuple[float, tuple[float, ...]]:
    """Return the value of a metric, from a copy: as one number, or as several (else nan)."""
    try:
        with without_a_trace(metric.device):
            value = copy.deepcopy(metric).compute()
    except Exception:  # the metric itself refuses what it holds
        return math.nan, ()
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value), ()
    parts = [bare(tensor) for tensor in tensors_in(value) if tensor.is_floating_point()]
    if sum(tensor.numel() for tensor in parts) > MOST_VALUES:
        return math.nan, ()
    return math.nan, tuple(number for tensor in parts for number in tensor.flatten().tolist())


@contextmanager
def without_a_trace(device: torch.device) -> Iterator[None]:
    """Keep random states and warnings as they are: metrics may draw, and warn once."""
    devices = [device] if device.type == "cuda" else []
    drawn = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
