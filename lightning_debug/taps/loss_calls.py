"""The loss functions that the training step calls: which, with what, and what they gave."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_debug.observation import LossCall, WholeLoss
from lightning_debug.taps import loss_references
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.handwritten import HandwrittenTap
from lightning_debug.taps.loss_features import BatchShape, Features
from lightning_debug.taps.loss_heard import Heard
from lightning_debug.taps.loss_references import UNIFORM
from lightning_debug.taps.replay import Replay, ReplayTap
from lightning_debug.taps.statistics import ACTIVATION_SAMPLE, dense, norm, sample, tensors_in
from lightning_debug.taps.trace import Frame, Trace, has_parameters
from lightning_debug.taps.transfer import Entry, Ledger

KINDS = {
    "cross_entropy": "logits",
    "multi_margin_loss": "logits",
    "binary_cross_entropy_with_logits": "binary-logits",
    "soft_margin_loss": "binary-logits",
    "multilabel_soft_margin_loss": "binary-logits",
    "nll_loss": "log-probabilities",
    "kl_div": "log-probabilities",
    "binary_cross_entropy": "probabilities",
    "mse_loss": "regression",
    "l1_loss": "regression",
    "smooth_l1_loss": "regression",
    "huber_loss": "regression",
}
OTHERS = frozenset(
    [
        "multilabel_margin_loss",
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
LOSSES = frozenset(KINDS) | OTHERS
CRITERION_LIMIT = 1_000_000
# What a loss is called again on, while all that backward needs is in memory.
MOST_REPEATED, FEWEST_REPEATED = 1_000_000, 256
# That tell the mean of each of many outputs.
FEWEST_SAMPLES = 4


@dataclass
class _Call:
    function: str
    place: str
    value: Entry
    norm: Entry
    numel: int
    features: Features
    spelled: bool = False
    terms: int = 1
    classes: int = 0
    references: dict[str, Entry] = field(default_factory=dict)
    margin: tuple[Entry, Entry] = field(default_factory=lambda: (Entry(0.0), Entry(0.0)))
    unscaled: Entry = field(default_factory=lambda: Entry(math.nan))
    unused: Entry = field(default_factory=lambda: Entry(0.0))


class LossTap(Listener):
    """Hears loss functions and calls them again on constant predictions.

    The reference comes from the user's own call with its own targets and keyword arguments, so
    class weights, label smoothing, soft targets, focal losses and reductions need no special
    case. A criterion module that calls no loss function of torch is called on a copy of itself.

    Attributes:
        nodes: Position of each call by the node of the graph that it made.
    """

    names = LOSSES

    def __init__(self, trace: Trace, handwritten: HandwrittenTap, replay: ReplayTap) -> None:
        self._trace = trace
        self._handwritten = handwritten
        self._replay = replay
        self._replayed: tuple[Replay, dict[str, Entry]] | None = None
        self._ledger = Ledger()
        self._batch = BatchShape()
        self._calls: list[_Call] = []
        self.nodes: dict[Node, int] = {}
        self.told: Callable[[Heard], None] | None = None
        self._handles: list[RemovableHandle] = []

    def begin(self, ledger: Ledger, batch: Any, *, replay: bool) -> None:
        """Start a look at a batch.

        Args:
            ledger: Takes the numbers.
            batch: Its integer tensors tell how targets are laid out.
            replay: Whether to run a loss again on zeros that calls no loss function.
        """
        self._ledger = ledger
        self._batch = BatchShape.of(list(tensors_in(batch)))
        self._calls = []
        self._replayed = None
        self._handwritten.begin(wanted=True)
        self._replay.begin(wanted=replay)

    def end(self) -> None:
        """Let go of the batch."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._batch = BatchShape()
        self.nodes.clear()
        self._handwritten.end()
        self._replay.end()

    def backward(self, loss: Tensor) -> None:
        """Look at what was spelled out on the way to a loss that backward starts from."""
        for heard in self._handwritten.heard(loss):
            self.compare(heard)
        if not self._calls and self._replayed is None:
            replay = self._replay.zeroed(loss)
            if replay is not None:
                note = self._ledger.note
                scalars = {"value": replay.value, "zero": replay.zero, "square": replay.square}
                self._replayed = replay, {k: note(v) for k, v in scalars.items()}
        self._replay.end()

    def whole(self, value: float) -> WholeLoss:
        """Return what is known of the loss that the training step returned."""
        if self._replayed is None:
            return WholeLoss(value=value)
        replay, entries = self._replayed
        started = entries["value"].value  # scaled for accumulation and for half precision
        scale = value / started if started and math.isfinite(value) else 1.0
        return WholeLoss(
            value=value,
            zero=entries["zero"].value * scale,
            squashed=replay.squashed,
            prediction_rms=math.sqrt(entries["square"].value / replay.size),
        )

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Hear a loss function of torch."""
        heard = _heard(func, args, kwargs, out, self._trace.place or "training_step")
        if heard is not None:
            self.compare(heard)

    def criterion(self, frame: Frame, args: Sequence[Any], out: Any) -> None:
        """Look at a module that turned a prediction and a target into a loss."""
        tensors = list(tensors_in(args))
        scalar = isinstance(out, Tensor) and out.numel() == 1 and out.requires_grad
        if not scalar or len(tensors) < 2 or self._trace.losses > frame.losses:
            return
        if has_parameters(frame.module):
            return
        left = next((t for t in tensors if t.requires_grad), None)
        if left is None:
            return
        call = self.compare(
            Heard(
                function=type(frame.module).__name__,
                kind="other",
                place=frame.path or "training_step",
                prediction=left,
                target=next(t for t in tensors if t is not left),
                value=out,
                node=out.grad_fn,
            )
        )
        buffers = sum(b.numel() for b in frame.module.buffers())
        if call is not None and buffers < CRITERION_LIMIT:
            zero = loss_references.on_zeros(frame.module, args, left, out)
            call.references["zero"] = self._ledger.note(zero)

    def compare(self, heard: Heard) -> _Call | None:
        """Measure both sides of a loss; None where there is nothing to measure."""
        prediction, value = dense(heard.prediction), dense(heard.value)
        if prediction is None or value is None or not heard.prediction.requires_grad:
            return None
        if self.told is not None:
            self.told(heard)
        with torch.no_grad():
            call = _Call(
                function=heard.function,
                place=heard.place,
                value=self._ledger.note(value.mean()),
                norm=self._ledger.note(norm(prediction)),
                numel=prediction.numel(),
                features=Features.of(heard, self._trace, self._batch, self._ledger),
                spelled=heard.given is not None,
            )
            if heard.function in UNIFORM or heard.function == "kl_div":
                call.classes = _classes(heard, prediction)
            if heard.reduction in ("sum", "batchmean"):
                call.terms = _terms(heard, prediction)
            if heard.again is not None:
                self._refer(call, heard, heard.again, prediction)
        if heard.kind == "regression" and heard.parts is not None:
            self._listen(call, heard.parts)
        if heard.node is not None:
            self.nodes[heard.node] = len(self._calls)
        self._calls.append(call)
        self._trace.losses += 1
        return call

    def _listen(self, call: _Call, parts: Tensor) -> None:
        """Hear from backward which of the errors have no say in the loss: a mask left them out."""
        ledger = self._ledger

        def hear(gradient: Tensor) -> None:
            values = dense(gradient)
            if values is not None:
                few = sample(values, ACTIVATION_SAMPLE)
                call.unused = ledger.note((few == 0).to(torch.float32).mean())

        if parts.requires_grad:
            handle = parts.register_hook(hear)  # type: ignore[no-untyped-call]  # torch's
            self._handles.append(handle)

    def observations(self) -> tuple[LossCall, ...]:
        """Return the calls of this look, in order."""
        return tuple(
            LossCall(
                function=call.function,
                place=call.place,
                value=call.value.value / call.terms,
                references={k: v.value / call.terms for k, v in call.references.items()},
                classes=call.classes,
                prediction_rms=call.norm.value / math.sqrt(call.numel),
                margin=call.margin[0].value,
                margin_size=call.margin[1].value,
                unscaled=call.unscaled.value / call.terms,
                unused=call.unused.value,
                spelled=call.spelled,
                terms=call.terms,
                **call.features.fields(),
            )
            for call in self._calls
        )

    def _refer(
        self,
        call: _Call,
        heard: Heard,
        repeat: Callable[[Tensor], Tensor],
        prediction: Tensor,
    ) -> None:
        """Call the loss again on predictions that know nothing."""
        target = heard.target
        if heard.every > 1:
            prediction, target = prediction[:: heard.every], target[:: heard.every]

        def again(constant: Tensor) -> Entry:
            return self._ledger.note(repeat(constant).mean())

        if heard.function in UNIFORM:
            call.references["uniform"] = again(UNIFORM[heard.function](prediction))
        elif heard.function == "kl_div":
            call.references["uniform"] = again(loss_references.log_mean(prediction, target))
        elif self._trace.origin(target) is not None:
            return  # a target that the model makes has the model's scale, not that of data
        elif heard.kind == "regression" and target.is_floating_point() and target.numel() > 1:
            call.references["zero"] = again(torch.zeros_like(prediction))
            call.references["mean"] = again(torch.ones_like(prediction) * target.mean())
            axes = loss_references.shared_axes(heard.prediction)
            samples = min(len(target), self._batch.size or len(target))
            if axes and prediction.shape == target.shape and samples >= FEWEST_SAMPLES:
                means = target.mean(axes, keepdim=True).expand_as(target).to(prediction.dtype)
                # They know their own batch, and so lie closer to it than to another.
                unseen = samples / (samples - 1)
                call.references["bias"] = self._ledger.note(repeat(means).mean() * unseen)
        if heard.function == "cross_entropy" and not target.is_floating_point():
            classes = prediction.shape[min(1, prediction.ndim - 1)]
            rows = prediction.movedim(1, -1).reshape(-1, classes) if prediction.ndim > 1 else None
            labels = target.reshape(-1)
            if rows is not None and len(rows) == len(labels) and classes > 1:
                surprise, size = loss_references.margin(rows, labels)
                call.margin = self._ledger.note(surprise), self._ledger.note(size)
                prior = loss_references.log_prior(prediction, labels, classes)
                call.references["prior"] = again(prior)
            factor = loss_references.temperature(heard.prediction)
            if factor is not None:
                call.unscaled = again(prediction / factor)


def _heard(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
    place: str,
) -> Heard | None:
    """Return the two sides and the options of a call of a loss function of torch."""
    name = getattr(func, "__name__", "")
    try:
        bound = inspect.signature(func).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    options = bound.arguments
    first, second = [*options][:2]
    left, right = options[first], options[second]
    if not all(isinstance(value, Tensor) for value in (left, right, out)):
        return None
    kind = KINDS.get(name, "other")
    swapped = kind == "regression" and not left.requires_grad and right.requires_grad
    if swapped:
        left, right = right, left

    others = [value for key, value in options.items() if key not in (first, second, "weight")]
    alone = not any(isinstance(value, Tensor) for value in others)
    every = _every(left, right) if alone and (kind == "logits" or "weight" not in options) else 1
    summed = options.get("reduction") == "sum" and every > 1

    def again(prediction: Tensor) -> Tensor:
        replaced = inspect.signature(func).bind_partial()
        replaced.arguments.update(options)
        few = right if every == 1 else right[::every]
        sides = (few, prediction) if swapped else (prediction, few)
        replaced.arguments[first], replaced.arguments[second] = sides
        result: Tensor = func(*replaced.args, **replaced.kwargs)
        return result * (len(left) / len(prediction)) if summed else result

    weights = (options.get(key) for key in ("weight", "pos_weight"))
    return Heard(
        function=name,
        kind=kind,
        place=place,
        prediction=left,
        target=right,
        value=out,
        node=out.grad_fn,
        parts=out if out.numel() > 1 else None,
        reduction=options.get("reduction", "mean"),
        weight=next((w for w in weights if isinstance(w, Tensor)), None),
        class_weights=_class_weights(name, options),
        ignored=options.get("ignore_index", -100)
        if name in ("cross_entropy", "nll_loss")
        else None,
        again=again,
        every=every,
    )


def _class_weights(name: str, options: Mapping[str, Any]) -> Tensor | None:
    """Return what a loss multiplies the targets of each class by, if it was told that."""
    weight, positive = options.get("weight"), options.get("pos_weight")
    if name in ("cross_entropy", "nll_loss"):
        return weight if isinstance(weight, Tensor) else None
    if isinstance(positive, Tensor) and positive.numel() == 1 and weight is None:
        one = positive.detach().reshape(1)
        return torch.cat([torch.ones_like(one), one])
    return None


def _every(prediction: Tensor, target: Tensor) -> int:
    """Return which samples tell what constant predictions give: of a large prediction some."""
    if not (prediction.ndim and target.ndim and len(prediction) == len(target)):
        return 1
    wanted = -(-prediction.numel() // MOST_REPEATED)
    return max(1, min(wanted, len(prediction) // FEWEST_REPEATED))


def _classes(heard: Heard, prediction: Tensor) -> int:
    if heard.function.startswith(("binary", "soft_margin")):
        return 2
    return prediction.shape[min(1, prediction.ndim - 1)]


def _terms(heard: Heard, prediction: Tensor) -> int:
    """Return how many terms a summed loss has."""
    if heard.reduction == "batchmean":
        return 1
    if heard.function in ("cross_entropy", "nll_loss") and prediction.ndim > 1:
        return max(1, prediction.numel() // prediction.shape[1])
    return max(1, prediction.numel())
