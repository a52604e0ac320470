"""The loss functions that the training step calls, and what they give on constant predictions."""

from __future__ import annotations

import copy
import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from lightning_debug.observation import LossCall
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.statistics import dense, norm, tensors_in
from lightning_debug.taps.trace import Frame, Trace
from lightning_debug.taps.transfer import Entry, Ledger

# The constant logit, log-probability or probability that says nothing, for each kind of loss.
UNIFORM: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": torch.zeros_like,
    "nll_loss": lambda p: torch.full_like(p, -math.log(p.shape[min(1, p.ndim - 1)])),
    "kl_div": lambda p: torch.full_like(p, -math.log(p.shape[-1])),
    "binary_cross_entropy": lambda p: torch.full_like(p, 0.5),
    "binary_cross_entropy_with_logits": torch.zeros_like,
    "soft_margin_loss": torch.zeros_like,
    "multilabel_soft_margin_loss": torch.zeros_like,
    "multi_margin_loss": torch.zeros_like,
    "multilabel_margin_loss": torch.zeros_like,
}
REGRESSION = frozenset(["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
OTHERS = frozenset(
    [
        "gaussian_nll_loss",
        "poisson_nll_loss",
        "hinge_embedding_loss",
        "cosine_embedding_loss",
        "ctc_loss",
        "margin_ranking_loss",
        "triplet_margin_loss",
        "triplet_margin_with_distance_loss",
    ]
)
LOSSES = frozenset(UNIFORM) | REGRESSION | OTHERS
CRITERION_LIMIT = 1_000_000


@dataclass
class _Call:
    function: str
    place: str
    value: Entry
    scale: float = 1.0
    classes: int = 0
    references: dict[str, Entry] = field(default_factory=dict)
    prediction: tuple[Entry, int] | None = None
    target: tuple[Entry, Entry] | None = None
    margin: tuple[Entry, Entry] = field(default_factory=lambda: (Entry(0.0), Entry(0.0)))
    unscaled: Entry = field(default_factory=lambda: Entry(math.nan))


class LossTap(Listener):
    """Hears loss functions and, at the first look, calls them again on constant predictions.

    The reference comes from the user's own call with its own targets and keyword arguments, so
    class weights, label smoothing, soft targets, focal losses and reductions need no special
    case. A criterion module that calls no loss function of torch is called on a copy of itself.
    """

    names = LOSSES

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ledger = Ledger()
        self._referenced = False
        self._calls: list[_Call] = []

    def begin(self, ledger: Ledger, *, references: bool) -> None:
        """Start a look; ``references`` tells whether to call the losses on constants too."""
        self._ledger = ledger
        self._referenced = references
        self._calls = []

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Look at a call of a loss function."""
        name = getattr(func, "__name__", "")
        try:
            bound = inspect.signature(func).bind(*args, **kwargs)
        except (TypeError, ValueError):
            return
        first, second = [*bound.arguments][:2]
        left, right = bound.arguments[first], bound.arguments[second]
        swapped = name in REGRESSION and not left.requires_grad and right.requires_grad
        if swapped:
            left, right = right, left
        prediction, target = dense(left), right
        if prediction is None or not isinstance(target, Tensor) or not isinstance(out, Tensor):
            return
        value = dense(out)
        if value is None or not left.requires_grad:
            return
        call = _Call(
            function=name,
            place=self._trace.place or "training_step",
            value=self._ledger.note(value.mean()),
            prediction=(self._ledger.note(norm(prediction)), prediction.numel()),
        )
        self._calls.append(call)
        self._trace.losses += 1
        if name in UNIFORM:
            call.classes = _classes(name, prediction)
        if bound.arguments.get("reduction", "mean") in ("sum", "batchmean"):
            call.scale = 1.0 / _targets(name, prediction, target, bound.arguments["reduction"])
        call.target = self._spread_of(target)
        if self._referenced:

            def again(constant: Tensor) -> Entry:
                replaced = dict(bound.arguments)
                replaced[second if swapped else first] = constant
                return self._ledger.note(_call(func, bound.signature, replaced).mean())

            self._refer(call, left, prediction, target, again)

    def criterion(self, frame: Frame, args: Sequence[Any], out: Any) -> None:
        """Look at a module that turned a prediction and a target into a loss."""
        tensors = list(tensors_in(args))
        scalar = isinstance(out, Tensor) and out.numel() == 1 and out.requires_grad
        if not scalar or len(tensors) < 2 or self._trace.losses > frame.losses:
            return
        if any(True for _ in frame.module.parameters()):
            return
        left = next((t for t in tensors if t.requires_grad), None)
        prediction = dense(left)
        if left is None or prediction is None:
            return
        call = _Call(
            function=type(frame.module).__name__,
            place=frame.path or "training_step",
            value=self._ledger.note(out),
            prediction=(self._ledger.note(norm(prediction)), prediction.numel()),
        )
        self._calls.append(call)
        self._trace.losses += 1
        call.target = self._spread_of(next(t for t in tensors if t is not left))
        buffers = sum(b.numel() for b in frame.module.buffers())
        if self._referenced and buffers < CRITERION_LIMIT:
            call.references["zero"] = self._ledger.note(_on_zeros(frame.module, args, left, out))

    def observations(self) -> tuple[LossCall, ...]:
        """Return the calls of this look, in order."""
        return tuple(
            LossCall(
                function=call.function,
                place=call.place,
                value=call.value.value * call.scale,
                references={k: v.value * call.scale for k, v in call.references.items()},
                classes=call.classes,
                prediction_rms=_rms(call.prediction),
                target_mean=call.target[0].value if call.target else math.nan,
                target_std=call.target[1].value if call.target else math.nan,
                margin=call.margin[0].value,
                margin_size=call.margin[1].value,
                unscaled=call.unscaled.value * call.scale,
            )
            for call in self._calls
        )

    def _spread_of(self, target: Tensor) -> tuple[Entry, Entry] | None:
        values = dense(target)
        if values is None or values.numel() < 2:
            return None
        deviation = values.to(torch.float32).std(correction=0)
        return self._ledger.note(values.mean()), self._ledger.note(deviation)

    def _refer(
        self,
        call: _Call,
        left: Tensor,
        prediction: Tensor,
        target: Tensor,
        again: Callable[[Tensor], Entry],
    ) -> None:
        name = call.function
        if name in UNIFORM:
            call.references["uniform"] = again(UNIFORM[name](prediction))
        elif self._trace.origin(target) is not None:
            return  # a target that the model makes has the model's scale, not that of data
        elif name in REGRESSION and target.is_floating_point() and target.numel() > 1:
            call.references["zero"] = again(torch.zeros_like(prediction))
            call.references["mean"] = again(torch.ones_like(prediction) * target.mean())
        if name == "cross_entropy" and not target.is_floating_point():
            classes = prediction.shape[min(1, prediction.ndim - 1)]
            rows = prediction.movedim(1, -1).reshape(-1, classes) if prediction.ndim > 1 else None
            labels = target.reshape(-1)
            if rows is not None and len(rows) == len(labels) and classes > 1:
                surprise, size = _margin(rows, labels)
                call.margin = self._ledger.note(surprise), self._ledger.note(size)
                valid = labels.clamp(0, classes - 1)
                shares = torch.zeros(classes, device=rows.device, dtype=torch.float32)
                shares.index_add_(0, valid, torch.ones_like(valid, dtype=torch.float32))
                prior = ((shares + 1e-3) / (shares + 1e-3).sum()).log().to(prediction.dtype)
                shape = [1, classes] + [1] * (prediction.ndim - 2)
                call.references["prior"] = again(prior.view(shape).expand_as(prediction))
            factor = _temperature(left)
            if factor is not None:
                call.unscaled = again(prediction / factor)


def _call(
    func: Callable[..., Any], signature: inspect.Signature, arguments: Mapping[str, Any]
) -> Tensor:
    bound = signature.bind_partial()
    bound.arguments.update(arguments)
    with torch.no_grad():
        out: Tensor = func(*bound.args, **bound.kwargs)
    return out


def _rms(prediction: tuple[Entry, int] | None) -> float:
    return prediction[0].value / math.sqrt(prediction[1]) if prediction else math.nan


def _classes(name: str, prediction: Tensor) -> int:
    if name.startswith(("binary", "soft_margin")):
        return 2
    return prediction.shape[min(1, prediction.ndim - 1)]


def _targets(name: str, prediction: Tensor, target: Tensor, reduction: str) -> int:
    """Return how many terms a summed loss has."""
    if reduction == "batchmean":
        return 1
    if name in ("cross_entropy", "nll_loss") and prediction.ndim > 1:
        return max(1, prediction.numel() // prediction.shape[1])
    return max(1, prediction.numel())


def _margin(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the true class's logit lies below the others.

    In standard errors, and in standard deviations of the logits.

    Before training a network knows nothing of the labels, so this is noise around 0, unless the
    loss lowers the true logit on purpose (ArcFace, CosFace). Logits count from the mean of their
    class over the batch, and classes count once: whole classes start high or low by chance.
    """
    classes = rows.shape[1]
    rows, labels = rows[:4096].to(torch.float32), labels[:4096]
    counted = (labels >= 0) & (labels < classes)  # others are ignored by the loss
    weight = counted.to(torch.float32)
    labels = labels.clamp(0, classes - 1)
    rows = rows - (rows * weight[:, None]).sum(dim=0) / weight.sum().clamp_min(1.0)
    true = rows.gather(1, labels[:, None]).squeeze(1)
    gap = (rows.sum(dim=1) - true) / (classes - 1) - true
    gaps, counts = rows.new_zeros(classes), rows.new_zeros(classes)
    gaps.index_add_(0, labels, gap * weight)
    counts.index_add_(0, labels, weight)
    present = (counts > 0).to(torch.float32)
    gaps = gaps / counts.clamp_min(1.0)
    seen = present.sum().clamp_min(1.0)
    mean = (gaps * present).sum() / seen
    error = torch.sqrt(((gaps - mean) ** 2 * present).sum()) / seen + 1e-12
    spread = ((rows**2 * weight[:, None]).sum() / (weight.sum().clamp_min(1.0) * classes)).sqrt()
    return mean / error, mean / (spread + 1e-12)


def _temperature(logits: Tensor) -> Tensor | None:
    """Return the constant factor that the logits were multiplied with last, if there is one."""
    node = logits.grad_fn
    if node is None:
        return None
    kind, saved = node.name(), getattr(node, "_saved_other", None)
    if not isinstance(saved, Tensor):
        return None
    factor = saved.detach()
    if factor.numel() != 1:
        return None
    if kind == "MulBackward0":
        return factor
    return 1.0 / factor if kind == "DivBackward0" else None


def _on_zeros(module: Module, args: Sequence[Any], prediction: Tensor, out: Tensor) -> Tensor:
    """Return what a criterion gives on zeros for the prediction; nan where that tells nothing.

    It does where each sample has a loss of its own. Losses between samples (contrastive, triplet,
    decorrelation) give nothing that a constant could be held against. Such a loss of a whole batch
    is neither between the losses of its halves nor their sum.
    """
    nothing = torch.full_like(out.detach(), float("nan"))
    n = prediction.shape[0] if prediction.ndim else 0
    tensors = [value for value in args if isinstance(value, Tensor)]
    if n < 2 or len(tensors) < 2 or any(t.ndim == 0 or t.shape[0] != n for t in tensors):
        return nothing

    def swap(value: Any, part: slice) -> Any:
        return value[part] if isinstance(value, Tensor) else value

    zeros = tuple(torch.zeros_like(prediction) if value is prediction else value for value in args)
    half = slice(0, n // 2), slice(n // 2, n)
    calls = [zeros, *(tuple(swap(value, part) for value in args) for part in half)]
    results = _on_copies(module, calls, prediction.device)
    if results is None:
        return nothing
    zero, *halves = results
    low, high, whole = torch.minimum(*halves), torch.maximum(*halves), out.detach()
    slack = 1e-3 * whole.abs() + 1e-6
    alone = (whole >= low - slack) & (whole <= high + slack)
    alone = alone | ((whole - low - high).abs() <= slack)
    return torch.where(alone, zero, nothing)


def _on_copies(
    module: Module, calls: Sequence[Sequence[Any]], device: torch.device
) -> list[Tensor] | None:
    """Call copies of a module; None if one fails.

    On copies, with the random state put back, because it may count, remember or draw.
    """
    devices = [device] if device.type == "cuda" else []
    drawn = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            results = [copy.deepcopy(module)(*args) for args in calls]
    except Exception:  # the user's code refuses constants: there is no reference
        return None
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
    scalars = all(isinstance(result, Tensor) and result.numel() == 1 for result in results)
    return [result.reshape(()) for result in results] if scalars else None
