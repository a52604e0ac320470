"""Gradients against finite differences: of the loss, of custom functions, of modules."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lightning_debug.experiments.batches import duplicate, samples, take
from lightning_debug.experiments.calls import Call, Recorder
from lightning_debug.experiments.cuts import Cuts
from lightning_debug.experiments.differences import Evaluate, Slope, directions, projected, slope
from lightning_debug.experiments.functions import Application, Applications, slopes, surrogate
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.observation import FunctionGradient, GradientCheck
from lightning_debug.taps.statistics import tensors_in

SAMPLES, FEWEST = 4, 2
DIRECTIONS = 2
SECONDS = 5.0
WRONG = 1e-3
MOST_MODULES = 40
MOST_LOSSES = 3


def check(replica: Replica, batch: Any, *, step: int, epoch: int) -> GradientCheck:
    """Compare gradients with central differences, in float64, on a few samples of a batch.

    Dropout and other noise are the same in every evaluation, values that are cut off from the
    graph stay what they were (:class:`Cuts`), and a difference counts only where both sides
    agree, which excludes kinks. Every ``autograd.Function`` is checked on its own; where the loss
    as a whole is wrong and no function is, the innermost module with a wrong gradient is named.

    Source: Stanford CS231n, "Gradient checks", https://cs231n.github.io/neural-networks-3/

    Raises:
        NotApplicableError: If the loss cannot be evaluated again and again.
    """
    whole = _Whole(replica, batch)
    functions = [_judged(application) for application in whole.applications]
    found = whole.judged(_excuse(whole, functions))
    culprit = any(f.error > WRONG and not f.surrogate for f in functions)
    if found.error > WRONG and not found.surrogate and not culprit:
        functions += _modules(replica, whole.calls())
    return GradientCheck(step=step, epoch=epoch, whole=found, functions=tuple(functions))


class _Whole:
    """The losses of a training step as one function of the parameters."""

    def __init__(self, replica: Replica, batch: Any) -> None:
        self._replica = replica
        self.parameters = list(replica.parameters.values())
        if not self.parameters or any(p.is_complex() for p in self.parameters):
            raise NotApplicableError("no real parameter asks for a gradient")
        started = time.monotonic()
        try:
            self._record(self._few(batch))
        except NotApplicableError:
            self._record(batch)
        seconds = time.monotonic() - started
        if seconds * 2 * DIRECTIONS * len(self._values) > SECONDS:
            raise NotApplicableError(f"the training step takes {seconds:.1f} s")
        again = self._evaluate(self.at)
        for one, other in zip(again, self._values, strict=True):
            if not math.isclose(one, other, rel_tol=1e-12):
                raise NotApplicableError("the step gives another loss when it is run again")

    def _few(self, batch: Any) -> Any:
        """Return a few samples of a batch, fewer of large ones."""
        size = samples(batch)
        count = self._replica.load.samples(batch, size, SAMPLES, FEWEST) if size else SAMPLES
        return take(batch, count)

    @property
    def hooked(self) -> bool:
        """Tell whether hooks may change gradients on the way."""
        modules = self._replica.module.modules()
        return self._cuts.hooked or any(m._backward_hooks or m._backward_pre_hooks for m in modules)

    @property
    def rounded(self) -> bool:
        """Tell whether values are rounded where autograd does not look."""
        return self._cuts.rounded

    def judged(self, surrogate: str) -> FunctionGradient:
        """Measure the derivatives of each loss; the one that is most wrong speaks for all."""
        found = [
            _named(self._slopes(number), "loss", surrogate=surrogate)
            for number in range(len(self._values))
        ]
        return max(found, key=lambda one: -1.0 if math.isnan(one.error) else one.error)

    def _slopes(self, number: int) -> list[Slope]:
        """Measure the derivative of one of the losses along random directions."""
        at, gradients, value = self.at, self._gradients[number], self._values[number]

        def evaluate(values: Sequence[Tensor]) -> float:
            return self._evaluate(values)[number]

        return _along(evaluate, value, at, gradients)

    def _record(self, batch: Any) -> None:
        self._batch = batch
        recorder = Recorder(self._replica, values=False)
        self.applications = Applications(recorder)
        self._cuts = Cuts(self.applications.hear)
        with recorder, self._cuts.recording():
            losses = self._replica.losses(batch)
        before = {id(tensor): values for tensor, values in self._replica.started()}
        self.at = [before[id(p)] for p in self.parameters]
        pairs = zip(self.parameters, self.at, strict=True)
        if any(not torch.equal(p.detach(), values.to(p.dtype)) for p, values in pairs):
            raise NotApplicableError("the step itself changes the weights")
        if not losses:
            raise NotApplicableError("the step gives no loss with a graph")
        # One by one: what is frozen for one loss may be trained by the next.
        losses = losses[:MOST_LOSSES]
        self._values = [float(loss.detach()) for loss in losses]
        if not all(map(math.isfinite, self._values)):
            raise NotApplicableError("the loss is not finite")
        last = losses[-1]
        self._gradients = [_gradients(x, self.parameters, keep=x is not last) for x in losses]

    def calls(self) -> Sequence[Call]:
        """Run the step once more; return what modules take and give in it."""
        with Recorder(self._replica) as recorder:
            self._replica.losses(self._batch)
        return recorder.calls

    def _evaluate(self, values: Sequence[Tensor]) -> list[float]:
        return self._replica.forward(lambda: self._at(values))

    def _at(self, values: Sequence[Tensor]) -> list[float]:
        before = dict(zip(map(id, self.parameters), self.at, strict=True))
        with self._replica.moved(self.parameters, values), self._cuts.replaying(before):
            losses = self._replica.losses(self._batch)
        if len(losses) < len(self._values):
            raise NotApplicableError("the step takes another way when weights change a little")
        return [float(loss.detach()) for loss in losses[: len(self._values)]]


def _judged(application: Application) -> FunctionGradient:
    """Check one function on its own."""
    name, place, line = application.function.__name__, application.place, application.line
    try:
        measured = slopes(application)
        found = _named(measured, name, place=place, line=line)
        if found.error <= WRONG:
            return found
        rough = "rough" if math.isnan(found.error) else ""
        return _named(measured, name, surrogate(application) or rough, place, line)
    except Exception as error:  # the user's function: whatever it raises on other numbers
        reason = f"it cannot be applied again ({type(error).__name__})"
        return FunctionGradient(name=name, place=place, line=line, surrogate=reason)


def _excuse(whole: _Whole, functions: Sequence[FunctionGradient]) -> str:
    """Say why the gradient of the loss is not its derivative, on purpose."""
    if whole.hooked:
        return "hook"
    if whole.rounded:
        return "flat"
    return next((f.surrogate for f in functions if f.surrogate), "")


def _modules(replica: Replica, calls: Sequence[Call]) -> Iterator[FunctionGradient]:
    """Yield the innermost module whose gradient is wrong, if one is."""
    for call in sorted(calls, key=lambda call: -call.depth)[:MOST_MODULES]:
        try:
            measured = _module_slopes(replica, call)
        except (NotApplicableError, RuntimeError):
            continue
        found = _named(measured, type(call.module).__name__, place=call.path)
        if found.error > WRONG:
            yield found
            return


def _module_slopes(replica: Replica, call: Call) -> list[Slope]:
    """Measure the derivative of one module with respect to its inputs and parameters."""
    cuts = Cuts()
    parameters = [p for p in call.module.parameters() if p.requires_grad]
    inputs = [t for t in tensors_in((call.args, call.kwargs)) if t.is_floating_point()]
    at = [*(p.detach().clone() for p in parameters), *inputs]

    def run(values: Sequence[Tensor]) -> Tensor:
        moved, given = values[: len(parameters)], iter(values[len(parameters) :])
        args, kwargs = _replaced((call.args, call.kwargs), given)
        with replica.moved(parameters, [m.detach() for m in moved]):
            out = replica.run(call.module, args, kwargs, copies=False)
        return projected([t for t in tensors_in(out) if t.is_floating_point()])

    leaves = [x.clone().requires_grad_() for x in inputs]
    with cuts.recording():
        total = run([*at[: len(parameters)], *(leaf * 1.0 for leaf in leaves)])
    if not total.requires_grad:
        return []
    gradients = _gradients(total, [*parameters, *leaves], keep=False)

    def evaluate(values: Sequence[Tensor]) -> float:
        started = [v.clone().requires_grad_() for v in values[len(parameters) :]]
        with cuts.replaying():
            out = run([*values[: len(parameters)], *(s * 1.0 for s in started)])
        return float(out.detach())

    value = float(total.detach())
    return _along(evaluate, value, at, gradients)


def _along(
    evaluate: Evaluate, value: float, at: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Slope]:
    """Measure the derivative along random directions, one after the other, as they are large.

    They leave alone what has no gradient, such as a padding row.
    """

    def measured(direction: list[Tensor]) -> Slope:
        for move, gradient in zip(direction, gradients, strict=True):
            move.mul_(gradient != 0)
        return slope(evaluate, value, at, gradients, direction)

    return list(map(measured, directions(at, DIRECTIONS, torch.float64)))


def _replaced(value: Any, given: Iterator[Tensor]) -> Any:
    """Put other tensors in the place of the floating-point ones, in order."""
    if isinstance(value, Tensor):
        return next(given) if value.is_floating_point() else duplicate(value)
    if type(value) in (tuple, list):
        return type(value)(_replaced(item, given) for item in value)
    if type(value) is dict:
        return {key: _replaced(item, given) for key, item in value.items()}
    return value


def _gradients(total: Tensor, leaves: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
    """Return the gradient, by backward: what is recomputed in it knows no other way."""
    for leaf in leaves:
        leaf.grad = None
    try:
        total.backward(retain_graph=keep)  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        raise NotApplicableError(f"backward fails on a copy: {error}") from error
    found = [torch.zeros_like(x) if x.grad is None else x.grad.to_dense() for x in leaves]
    for leaf in leaves:
        leaf.grad = None
    return found


def _named(
    measured: Sequence[Slope], name: str, surrogate: str = "", place: str = "", line: str = ""
) -> FunctionGradient:
    """Sum up the derivatives in several directions: the one in the middle speaks for all."""
    settled = sorted((s for s in measured if math.isfinite(s.error)), key=lambda s: s.error)
    if len(settled) * 2 <= len(measured) or not settled:
        return FunctionGradient(name=name, place=place, line=line, surrogate=surrogate)
    middle = settled[len(settled) // 2]
    return FunctionGradient(
        name=name,
        place=place,
        line=line,
        error=median(s.error for s in settled),
        numeric=middle.numeric,
        analytic=middle.analytic,
        surrogate=surrogate,
    )
