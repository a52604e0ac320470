"""NaN that is born on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.cures import cure, describe
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Backward, NonFiniteBirth


@dataclass(kw_only=True)
class NonFiniteGradient(Check):
    """The loss is finite but gradients are NaN or infinite.

    Why: one step with such a gradient ruins the weights. Typical sources are functions whose
    value is finite but whose slope is not: sqrt(0), norm(0), pow(0, p<1), log or division in the
    branch that torch.where does not take.

    Silent when: the loss is not finite (then that is the finding); a gradient scaler refuses the
    step (16-mixed probes its scale that way).
    """

    severity = Severity.ERROR
    symptom_of = (
        "precision-underflow",
        "non-finite-activation",
        "non-finite-loss",
        "exploding-gradient",
        "non-finite-input",
    )
    fix = (
        "Keep the argument away from the point without a slope: (x + 1e-8).sqrt(),"
        " x.norm().clamp_min(1e-8); inside torch.where make the unused branch safe as well."
    )

    _traced: bool = field(default=False, init=False, repr=False)

    def on_non_finite_birth(self, obs: NonFiniteBirth) -> Iterator[Finding]:
        """Name the operation whose derivative is not finite."""
        if obs.phase == "backward":
            self._traced = True
            message = f"The loss is finite, but not its gradient.{describe(obs)}"
            where = obs.place or "training_step"
            yield self.finding(obs, message, where=where, fix=cure(obs), function=obs.function)

    def on_backward(self, obs: Backward) -> Iterator[Finding]:
        """Name the module between a finite and a non-finite gradient."""
        sound = obs.loss_finite and obs.activations_finite
        if self._traced or not obs.broken or not sound or obs.skipped:
            return
        born = next((c for c in obs.calls if c.incoming_finite and not c.outgoing_finite), None)
        reached = next((c for c in obs.calls if not c.incoming_finite), None)
        broken = f"{len(obs.broken)} parameters have a gradient that is not finite."
        if born is not None:
            where = born.place
            message = (
                f"{broken} The gradient that enters {where} is finite, the one it returns is not."
            )
        elif reached is not None:
            where = reached.place
            message = f"{broken} It is born behind the output of {where}, before the next module."
        else:
            where = obs.broken[-1]
            message = f"{broken} The last in model order is {where}."
        count = float(len(obs.broken))
        yield self.finding(obs, message, where=where, parameters=count)
