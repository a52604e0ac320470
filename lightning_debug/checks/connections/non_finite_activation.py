"""The module that makes the first NaN."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.cures import cure, describe
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Activations, ModuleCall, NonFiniteBirth


@dataclass(kw_only=True)
class NonFiniteActivation(Check):
    """A module turns finite inputs into NaN or infinity, and the loss or gradients with them.

    Why: everything after that module is lost, and the step writes NaN into the weights.

    Silent when: the loss and the gradients stay finite all the same (masks of minus infinity);
    a gradient scaler refuses the step; an earlier update has broken the weights. Names only the
    first module in order of execution.
    """

    severity = Severity.ERROR
    symptom_of = (
        "precision-underflow",
        "non-finite-gradient",
        "non-finite-loss",
        "exploding-gradient",
        "learning-rate-too-high",
        "update-too-large",
        "non-finite-input",
    )
    fix = (
        "Look for log(0), sqrt of a negative number, division by zero, exp of a large number or a"
        " softmax over a row that is masked completely in this module. In 16-bit precision, try"
        " precision='bf16-mixed'."
    )

    _born: str = field(default="", init=False, repr=False)
    _birth: NonFiniteBirth | None = field(default=None, init=False, repr=False)

    def on_non_finite_birth(self, obs: NonFiniteBirth) -> Iterator[Finding]:
        """Remember the operation that it comes from."""
        self._birth = obs
        yield from ()

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Find the first module whose output is not finite, the first time there is one."""
        first = next((call for call in obs.modules if not call.finite), None)
        broken_before = first is not None and not first.parameters_finite and obs.step > 0
        if first is not None and obs.harmful and not broken_before:
            # Later all weights are broken, and the first module to run tells nothing.
            self._born = self._born or first.place
            message, fix = self._explain(obs, first), ""
            if self._birth is not None and self._birth.phase == "forward":
                message, fix = message + describe(self._birth), cure(self._birth)
            yield self.finding(obs, message, where=self._born, fix=fix)

    def _explain(self, obs: Activations, call: ModuleCall) -> str:
        message = f"The output of {call.place} ({call.kind}) is the first that is not finite."
        if not obs.batch_finite:
            return message + " The batch already holds NaN or infinity."
        if not call.parameters_finite:
            return message + " Its parameters are not finite: an earlier update broke them."
        if not call.input_finite:
            return message + " Its input is not either: what feeds it is computed outside modules."
        return message + f" Its input is finite, with an rms of {call.input_rms:.3g}."
