"""A first loss that is worse than knowing nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Activations, LossCall, LossCalls, RunStart, owner


@dataclass(kw_only=True)
class InitialLoss(Check):
    """The first loss is far above what the same call gives on a constant prediction.

    Why: a network that knows nothing should do as well as a constant guess: ln(C) for
    cross-entropy over C classes, ln(2) for a binary one, about the variance of the targets for a
    squared error. A much larger loss means that the first outputs are large and wrong. The first
    hundreds of steps are then spent on shrinking them, with gradients that may blow up.

    Silent when: the loss is low (fine-tuning); the run is resumed; class weights, label
    smoothing, soft targets, focal losses or a summed reduction change the level, because the
    reference is the user's own call. A margin or a temperature that raises it is info.

    Source: Karpathy, A Recipe for Training Neural Networks (2019), "verify loss @ init".

    Args:
        factor: Largest healthy multiple of the reference, for classification.
        margin: Added to that, in nats.
        regression_factor: Largest healthy multiple of the loss of predicting zero; an
            independent prediction as large as the targets already gives 2.
        offset_factor: Largest healthy ratio of predicting zero to predicting the target mean.
        large_mean: Mean of the targets that is far from the outputs of a fresh network (about 1).
        large_input: Root mean square of the first layer's input that counts as unnormalised.
        large_gain: Root mean square of a weight times sqrt(fan-in) that counts as too large.
    """

    fix = "Check the scale of the inputs and the initialisation of the last layer."

    factor: float = 1.5
    margin: float = 0.5
    regression_factor: float = 4.0
    offset_factor: float = 20.0
    large_mean: float = 3.0
    large_input: float = 3.0
    large_gain: float = 4.0
    _gains: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _input: tuple[str, float] = field(default=("", 0.0), init=False, repr=False)
    _judged: bool = field(default=False, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember the scale of the weights."""
        self._gains = {
            name: p.rms * math.sqrt(p.fan_in) for name, p in obs.parameters.items() if p.fan_in
        }
        yield from ()

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Remember what enters the first layer with weights."""
        if not self._judged:
            tables = {call.place for call in obs.modules if call.integer_input}
            self._gains = {n: g for n, g in self._gains.items() if owner(n) not in tables}
            first = next((c for c in obs.modules if c.parametric), None)
            if first is not None and not first.integer_input and not math.isnan(first.input_rms):
                self._input = first.place, first.input_rms
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Compare each loss of the first look with its reference."""
        if self._judged or not obs.calls:
            return
        self._judged = True
        if obs.resumed:
            return
        for call in obs.calls:
            if call.references and math.isfinite(call.value):
                yield from self._judge(obs, call)

    def _judge(self, obs: LossCalls, call: LossCall) -> Iterator[Finding]:
        if "mean" in call.references:
            yield from self._regression(obs, call)
            return
        references = [value for value in call.references.values() if math.isfinite(value)]
        if not references:
            return  # a loss that no constant prediction can be put into
        reference = max(references)
        measured = "zero" in call.references and math.isfinite(call.target_std)
        factor = self.regression_factor if measured else self.factor
        limit = factor * reference + self.margin
        if call.value <= limit:
            return
        chance = "a constant prediction"
        if call.classes:
            chance = f"chance over {call.classes} classes"
        message = (
            f"The first {call.function} is {call.value:.4g}; the same call on {chance} gives"
            f" {reference:.4g}."
        )
        evidence: dict[str, Any] = {"loss": call.value, "reference": reference}
        if (call.margin > 3.0 and call.margin_size > 2.0) or call.unscaled <= limit:
            message += " A margin or a temperature in the loss explains it."
            yield self.finding(obs, message, where=call.place, severity=Severity.INFO, **evidence)
            return
        cause, fix = self._blame(call)
        yield self.finding(obs, message + cause, where=call.place, fix=fix, **evidence)

    def _regression(self, obs: LossCalls, call: LossCall) -> Iterator[Finding]:
        zero, mean = call.references["zero"], call.references["mean"]
        if call.target_std <= 1e-6 * abs(call.target_mean) or mean <= 0.0:
            return  # constant targets: a penalty, not a task
        power = 1.0 if call.function == "l1_loss" else 2.0
        high = self.regression_factor ** (power / 2.0) * max(zero, mean)
        far = self.offset_factor ** (power / 2.0) * mean
        evidence: dict[str, Any] = {"loss": call.value, "zero": zero, "mean": mean}
        start = f"The first {call.function} is {call.value:.4g};"
        if call.value > high:
            message = f"{start} predicting nothing but zeros gives {zero:.4g}."
            cause, fix = self._blame(call)
            yield self.finding(obs, message + cause, where=call.place, fix=fix, **evidence)
        elif call.value > far and abs(call.target_mean) > self.large_mean:
            message = (
                f"{start} predicting the target mean ({call.target_mean:.4g}) gives {mean:.4g}."
                f" The targets lie far from zero for their spread ({call.target_std:.3g}), where"
                " a fresh network starts."
            )
            fix = (
                "Standardise the targets (subtract their mean, divide by their standard"
                " deviation), or start the last bias at their mean:"
                f" head.bias.data.fill_({call.target_mean:.4g})."
            )
            yield self.finding(obs, message, where=call.place, fix=fix, **evidence)

    def _blame(self, call: LossCall) -> tuple[str, str]:
        """Return what the measurements point to, and what to do about it."""
        place, rms = self._input
        gains = {name: gain for name, gain in self._gains.items() if gain > self.large_gain}
        causes, fixes = [], []
        if rms > self.large_input:
            causes.append(f"unnormalised input: the rms at {place} is {rms:.3g}, not about 1")
            fixes.append("Normalise the inputs: (x - mean) / std, over the training set.")
        if gains:
            worst = max(gains, key=lambda name: gains[name])
            causes.append(f"the initialisation: {worst} is {gains[worst]:.3g} / sqrt(fan_in)")
            fixes.append(f"Initialise {worst} with torch.nn.init.kaiming_normal_, or not at all.")
        if causes:
            return f" It points to {' and to '.join(causes)}.", " ".join(fixes)
        return (
            f" The predictions have an rms of {call.prediction_rms:.3g}.",
            "Make the first outputs small: give the last layer a smaller initial scale, or put a"
            " normalisation before it.",
        )
