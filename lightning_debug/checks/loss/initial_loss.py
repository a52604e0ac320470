"""A first loss that is worse than knowing nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Activations,
    LossCall,
    LossCalls,
    RunStart,
    WholeLoss,
    owner,
)

LINEAR = ("l1_loss", "absolute error")


@dataclass(kw_only=True)
class InitialLoss(Check):
    """The first loss is far above what the same call gives on a constant prediction.

    Why: a network that knows nothing should do as well as a constant guess: ln(C) for
    cross-entropy over C classes, ln(2) for a binary one, about the variance of the targets for a
    squared error. A much larger loss means that the first outputs are large and wrong. The first
    hundreds of steps are then spent on shrinking them, with gradients that may blow up.

    Silent when: the loss is low (fine-tuning); the run is resumed; class weights, label
    smoothing, soft targets, focal losses or a summed reduction change the level, because the
    reference is the user's own call, or for a handwritten loss the user's own computation from the
    last layer on, run again on zeros. Losses between samples (contrastive) have no reference, nor
    have squared errors of which a mask drops some. A margin or a temperature that raises the loss
    is info.

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
        chance: Chance levels of losses that cannot be called on a constant prediction, by the
            name of the function or criterion class, or ``"loss"`` for what the training step
            returns: ``checks=[checks.InitialLoss(chance={"ArcFace": math.log(1000)})]``.
    """

    symptom_of = (
        "input-not-normalized",
        "weight-init-scale",
        "loss-task-mismatch",
        "loss-reduction",
    )
    fix = "Check the scale of the inputs and the initialisation of the last layer."

    factor: float = 1.5
    margin: float = 0.5
    regression_factor: float = 4.0
    offset_factor: float = 20.0
    large_mean: float = 3.0
    large_input: float = 3.0
    large_gain: float = 4.0
    chance: Mapping[str, float] = field(default_factory=dict)
    _gains: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _input: tuple[str, float] = field(default=("", 0.0), init=False, repr=False)
    _judged: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse chance levels that are no positive numbers."""
        super().__post_init__()
        for name, level in self.chance.items():
            if not isinstance(level, (int, float)) or not 0.0 < level < math.inf:
                raise ValueError(f"chance[{name!r}]={level!r} must be a positive number")

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
        if self._judged:
            return
        self._judged = True
        if obs.resumed:
            return
        for call in obs.calls:
            if call.function in self.chance and math.isfinite(call.value):
                yield from self._registered(obs, call.function, call.place, call.value)
            elif call.references and math.isfinite(call.value):
                yield from self._judge(obs, call)
        if obs.whole is not None and math.isfinite(obs.whole.value):
            if "loss" in self.chance:
                yield from self._registered(obs, "loss", "training_step", obs.whole.value)
            elif not obs.calls:
                yield from self._handwritten(obs, obs.whole)

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
        message = f"The first {call.function} is {call.value:.4g}; {_chance(call, reference)}."
        evidence: dict[str, Any] = {"loss": call.value, "reference": reference}
        if (call.margin > 3.0 and call.margin_size > 2.0) or call.unscaled <= limit:
            message += " A margin or a temperature in the loss explains it."
            yield self.finding(obs, message, where=call.place, severity=Severity.INFO, **evidence)
            return
        cause, fix = self._blame(call.prediction_rms)
        yield self.finding(obs, message + cause, where=call.place, fix=fix, **evidence)

    def _registered(self, obs: LossCalls, name: str, place: str, value: float) -> Iterator[Finding]:
        """Compare a loss with the chance level that the user gave for it."""
        chance = self.chance[name]
        if value > self.factor * chance + self.margin:
            cause, fix = self._blame()
            message = f"The first {name} is {value:.4g}; you gave {chance:.4g} as its chance level."
            yield self.finding(obs, message + cause, where=place, fix=fix, loss=value)

    def _handwritten(self, obs: LossCalls, whole: WholeLoss) -> Iterator[Finding]:
        """Compare a loss that calls no loss function with the same computation on zeros."""
        factor = self.factor if whole.squashed else self.regression_factor
        margin = self.margin if whole.squashed else 0.0
        if whole.zero > 0.0 and whole.value > factor * whole.zero + margin:
            message = (
                f"The first loss is {whole.value:.4g}; the same computation with zeros for the"
                f" output of the last layer gives {whole.zero:.4g}."
            )
            cause, fix = self._blame(whole.prediction_rms)
            yield self.finding(
                obs,
                message + cause,
                where="training_step",
                fix=fix,
                loss=whole.value,
                reference=whole.zero,
            )

    def _regression(self, obs: LossCalls, call: LossCall) -> Iterator[Finding]:
        zero, mean = call.references["zero"], call.references["mean"]
        if call.target_std <= 1e-6 * abs(call.target_mean) or mean <= 0.0:
            return  # constant targets: a penalty, not a task
        if call.unused > 0.0:
            return  # targets that do not count stand for nothing, and zeros meet them best
        power = 1.0 if call.function in LINEAR else 2.0
        high = self.regression_factor ** (power / 2.0) * max(zero, mean)
        far = self.offset_factor ** (power / 2.0) * mean
        evidence: dict[str, Any] = {"loss": call.value, "zero": zero, "mean": mean}
        start = f"The first {call.function} is {call.value:.4g};"
        if call.value > high:
            message = f"{start} predicting nothing but zeros gives {zero:.4g}."
            cause, fix = self._blame(call.prediction_rms)
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

    def _blame(self, prediction_rms: float = math.nan) -> tuple[str, str]:
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
        measured = math.isfinite(prediction_rms)
        return (
            f" The predictions have an rms of {prediction_rms:.3g}." if measured else "",
            "Make the first outputs small: give the last layer a smaller initial scale, or put a"
            " normalisation before it.",
        )


def _chance(call: LossCall, reference: float) -> str:
    """Say what the chance level is, and why."""
    if not call.classes:
        return f"the same call on a constant prediction gives {reference:.4g}"
    if math.isclose(reference, math.log(call.classes), rel_tol=1e-3):
        return f"chance over {call.classes} classes is ln {call.classes} = {reference:.4g}"
    return (
        f"the same call on equal logits, which is chance over {call.classes} classes, gives"
        f" {reference:.4g}"
    )
