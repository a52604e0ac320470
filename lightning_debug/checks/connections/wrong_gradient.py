"""A gradient that is not the derivative."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import FunctionGradient, GradientCheck


@dataclass(kw_only=True)
class WrongGradient(Check):
    """The gradient is not the derivative of the loss.

    Why: the optimizer follows a direction that does not lower the loss, or not the best way. The
    model often trains all the same, only worse. Sources are the backward of an autograd.Function
    written by hand, and values that are changed behind autograd's back (.data, in place under
    torch.no_grad).

    Compared with central finite differences in float64 on a copy of the model, before the first
    update and after about fifty.

    Silent when: the gradient is another one on purpose: cut off by detach, no_grad or item
    (straight-through estimators, stop-gradients, teachers), reversed or scaled by a function that
    gives what it takes, passed through rounding, changed by a hook, or approximated by a solver;
    where the loss has a kink or is not the same twice.

    Source: Stanford CS231n, "Gradient checks", https://cs231n.github.io/neural-networks-3/

    Args:
        error: Relative error of a directional derivative above which a gradient is wrong; CS231n
            takes 1e-2 for a sure sign, and correct ones are near 1e-8 in float64.
    """

    severity = Severity.ERROR
    symptom_of = ("not-log-probabilities",)
    fix = (
        "Multiply by the incoming gradient in backward and return one gradient for each input of"
        " forward; test it with torch.autograd.gradcheck(MyFunction.apply, (x.double(),)). Do not"
        " write to .data, or in place under torch.no_grad(), on the way to the loss."
    )

    error: float = 1e-2

    _written: bool = field(default=False, init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Leave out the loss where a backward written by hand is wrong."""
        return () if self._written else self.symptom_of

    def on_gradient_check(self, obs: GradientCheck) -> Iterator[Finding]:
        """Name the functions or modules whose gradient is wrong."""
        parts = [part for part in obs.functions if self._wrong(part)]
        self._written = self._written or any(part.line for part in parts)
        for part in {(part.name, part.place): part for part in parts}.values():
            subject = f"backward of {part.name} ({part.line})"
            if not part.line:
                subject = f"gradient of what {part.name} computes"
            message = (
                f"The {subject} gives {part.analytic:.3g} for a derivative that"
                f" is {part.numeric:.3g} by finite differences."
            )
            yield self._tell(obs, part, message, part.place or part.name)
        if not parts and obs.whole is not None and self._wrong(obs.whole):
            whole = obs.whole
            message = (
                f"Along a random direction of the weights the loss changes by {whole.numeric:.3g},"
                f" but its gradient says {whole.analytic:.3g}."
            )
            yield self._tell(obs, whole, message, "training_step")

    def _wrong(self, part: FunctionGradient) -> bool:
        return part.error > self.error and not part.surrogate

    def _tell(
        self, obs: GradientCheck, part: FunctionGradient, message: str, where: str
    ) -> Finding:
        return self.finding(
            obs,
            message,
            where=where,
            numeric=part.numeric,
            analytic=part.analytic,
            error=part.error,
        )
