"""What in an input a prediction depends on: the score of each sample, and its gradients."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from lightning_debug.experiments.batches import mapped
from lightning_debug.experiments.calls import Call
from lightning_debug.experiments.pairs import BINARY, BY_CLASS, PICKS, Pair, paired
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.trial import Trial
from lightning_debug.taps.statistics import tensors_in

MOST_CHANNELS = 16
MOST_TRIED = 4
INSTALL = 'no saliency and no Grad-CAM: pip install "lightning-debug[pictures]"'


@dataclass(frozen=True, slots=True)
class Explainers:
    """What captum has: both are classes."""

    saliency: Any
    grad_cam: Any


def explainers(model: Module, batch: Any) -> Explainers | None:
    """Load captum where there may be images; None where it is not installed or not needed.

    Only outside of where a copy works: an import there would be half undone.
    """
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    if not convolves and not any(t.ndim == 4 for t in tensors_in(batch)):
        return None
    try:
        from captum.attr import LayerGradCam, Saliency  # type: ignore[import-untyped]
    except ImportError:
        return None
    return Explainers(Saliency, LayerGradCam)


class Scores:
    """The score of each sample: how strongly the step predicts what it is to predict.

    Of a class, the number that stands for the true one; of a value, the value. It is taken where
    prediction and target meet in the loss of the user's own training step.

    Args:
        replica: In the mode in which it is to run.
        batch: What the step is given.
        trial: What was heard of the step, with this batch.

    Attributes:
        call: The run of a module that takes the input.
        given: The input: images, a table, a series or ids.
        kind: ``"images"``, ``"table"``, ``"series"`` or ``"tokens"``.
        gradient: Of the scores, at the input or at what the first embedding makes of ids.

    Raises:
        NotApplicableError: If the step does not tell what it predicts for a sample.
    """

    def __init__(self, replica: Replica, batch: Any, trial: Trial) -> None:
        self._replica = replica
        self._batch = batch
        if len(replica.optimizers) > 1:
            raise NotApplicableError("several optimizers: it is not clear what is predicted")
        self._number, pair = _answer(trial.pairs)
        self.size = len(pair.target)
        self.single = pair.target.numel() == self.size or pair.function in BINARY
        self._trial = trial
        # A step may run the model for a log as well: the input is the one that makes a difference.
        for call, index, given in _taken(trial, self.size):
            self.call, self._index, self.given = call, index, given
            self.kind = _kind(given)
            gradient = self._positions() if self.kind == "tokens" else self._slopes()
            if gradient is not None:
                self.gradient = gradient
                return
        raise NotApplicableError("the prediction depends on no input of a module")

    def __call__(self, given: Tensor) -> Tensor:
        """Return the scores, shape (N,), for another input in place of its own."""
        with self._exchanged(given):
            return self._run()

    def _slopes(self) -> Tensor | None:
        given = self.given.clone().requires_grad_()
        return _gradient(self(given), [given])

    def _positions(self) -> Tensor | None:
        kept: list[Tensor] = []

        def keep(module: Module, args: Any, out: Tensor) -> Tensor:
            if out.ndim != 3 or out.shape[:2] != self.given.shape:
                return out
            kept.append(out if out.requires_grad else out.detach().requires_grad_())
            return kept[-1]

        calls = (call for call in self._trial.calls if isinstance(call.module, nn.Embedding))
        modules = dict.fromkeys(call.module for call in calls)
        handles = [module.register_forward_hook(keep) for module in modules]
        try:
            scores = self._run()
        finally:
            for handle in handles:
                handle.remove()
        return _gradient(scores, kept) if kept else None

    def _run(self) -> Tensor:
        ear = _Ear(self._number)
        with ear:
            self._replica.losses(self._batch)
        if ear.scores is None:
            raise NotApplicableError("the step goes another way the second time")
        return ear.scores

    @contextlib.contextmanager
    def _exchanged(self, given: Tensor) -> Iterator[None]:
        runs = [call for call in self._trial.calls if call.module is self.call.module]
        wait = itertools.count(-runs.index(self.call))

        def exchange(module: Module, args: Any, kwargs: Any) -> Any:
            if next(wait):
                return None
            tensors = list(tensors_in((args, kwargs)))
            old = tensors[self._index]
            return mapped((args, kwargs), lambda t: given if t is old else t)

        handle = self.call.module.register_forward_pre_hook(exchange, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class _Ear(TorchFunctionMode):
    """Hears the answer of the step, with its graph."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number
        self.scores: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, and listen."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.scores is None and isinstance(out, (Tensor, tuple)):
            pair = paired(func, getattr(func, "__name__", ""), args, kwargs, "", out)
            if pair is not None:
                if self._left == 0:
                    self.scores = _scores(pair, _raw(pair, (args, kwargs)))
                self._left -= 1
        return out


def _answer(pairs: Sequence[Pair]) -> tuple[int, Pair]:
    """Return the prediction that is the answer, and its number: a class before a value."""
    for functions in (BY_CLASS, PICKS, BINARY, None):
        for number, pair in enumerate(pairs):
            if functions is None or pair.function in functions:
                return number, pair
    raise NotApplicableError("no prediction meets a target in the loss")


def _raw(pair: Pair, given: Any) -> Tensor:
    """Return the prediction with its graph, laid out as in the pair."""
    size = pair.prediction.numel()
    raw = next(t for t in tensors_in(given) if t.requires_grad and t.numel() == size)
    return raw if raw.shape == pair.prediction.shape else raw.movedim(1, -1)


def _scores(pair: Pair, raw: Tensor) -> Tensor:
    raw, target = raw.float(), pair.target
    if pair.function in BINARY:
        scores = raw * (2.0 * target - 1.0)
    elif target.is_floating_point() and pair.function in BY_CLASS:
        scores = raw * target  # shares of classes
    elif raw.ndim == target.ndim + 1:
        index = torch.where(pair.counted, target, 0).long()
        scores = raw.gather(-1, index[..., None])[..., 0] * pair.counted
    else:
        scores = raw
    return scores.flatten(1).sum(dim=1) if scores.ndim > 1 else scores


def _taken(trial: Trial, size: int) -> Iterator[tuple[Call, int, Tensor]]:
    """Yield the first calls that take data of so many samples, and which tensor they are."""
    for call in trial.outermost[:MOST_TRIED]:
        for index, tensor in enumerate(tensors_in((call.args, call.kwargs))):
            if tensor.ndim > 1 and len(tensor) == size and tensor.dtype is not torch.bool:
                yield from _folded(trial, tensor)
                yield call, index, tensor
                break


def _folded(trial: Trial, rows: Tensor) -> Iterator[tuple[Call, int, Tensor]]:
    """Yield the convolution that takes the same numbers as images, if they come in rows."""
    if rows.ndim == 4:
        return
    for call in trial.calls:
        if isinstance(call.module, nn.Conv2d) and call.args:
            given = call.args[0]
            alike = given.dtype is rows.dtype and given.numel() == rows.numel()
            if alike and torch.equal(given.flatten(), rows.flatten()):
                yield call, 0, given
            return


def _kind(given: Tensor) -> str:
    """Return what an input is.

    Raises:
        NotApplicableError: If it is nothing that can be shown.
    """
    if not given.is_floating_point():
        if given.ndim == 2 and given.shape[1] > 1:
            return "tokens"
    elif given.ndim == 4 and given.shape[1] <= MOST_CHANNELS and min(given.shape[2:]) > 1:
        return "images"
    elif given.ndim in (2, 3):
        return "table" if given.ndim == 2 else "series"
    shape = "x".join(map(str, given.shape))
    raise NotApplicableError(f"an input of shape {shape} is no image, table or sequence")


def _gradient(scores: Tensor, of: Sequence[Tensor]) -> Tensor | None:
    """Return the gradient at the first tensor that has one."""
    try:
        gradients = torch.autograd.grad(scores.sum(), list(of), allow_unused=True)
    except RuntimeError as error:
        raise NotApplicableError(f"the prediction has no gradient: {error}") from error
    return next((g.detach().float() for g in gradients if g is not None), None)
