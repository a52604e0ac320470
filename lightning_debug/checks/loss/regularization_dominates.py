"""Regularization that is louder than the data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lightning_debug.chance import Chances, Standing
from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import (
    Gradients,
    LossCall,
    LossCalls,
    Losses,
    LossTerm,
    LossTerms,
    ParameterUpdate,
    RateTrial,
    Updates,
)
from lightning_debug.shrinking import Shrinking

AT_CHANCE = 0.9
HALF_WAY = 0.5


@dataclass(kw_only=True)
class RegularizationDominates(Check):
    """Weight decay, or a penalty on weights or activations, moves weights more than the data do.

    Why: the weights then shrink whatever the data say, and the model stays at chance. CS231n's
    sanity check turns regularization off and looks at the data loss alone for this reason.

    Where the loss does not come down, a copy is trained without weight decay as well: if it learns
    and the one with weight decay does not, that is proof.

    Silent when: the loss is below half of its chance level: the data gradient of a converged
    model is small, and weight decay holds it in place. At chance it is enough that regularization
    outweighs the data; where the loss has come below chance, or no chance level is known, it has
    to be ``clear`` or ``overwhelming``.

    Source: CS231n, Neural Networks Part 3, "Before learning: sanity checks" and "Gradient checks".

    Args:
        ratio: Smallest ratio of regularization to data that counts while the loss is at chance.
        clear: The same while the loss is above half of its chance level; for penalties on
            activations, while it is at chance.
        overwhelming: The same where no chance level is known, from the first look on; ``clear``
            where weights have shrunk by a tenth since the first step, and the whole loss has not.
        gain: Share of the initial loss that a copy without weight decay has to gain in a trial.
        advantage: How many times as much as the copy with weight decay it has to gain.
        patience: Looks in a row.
    """

    symptom_of = (
        "adam-with-l2",
        "vanishing-gradient",
        "zero-gradient",
        "no-gradient",
        "activation-collapse",
        "dead-relu",
        "symmetric-init",
        "weight-init-scale",
        "saturated-activation",
        "learning-rate-too-high",
        "update-too-large",
    )
    fix = "Multiply weight_decay (or the weight of the penalty) by 0.01, or set it to 0 at first."

    ratio: float = 1.0
    clear: float = 3.0
    overwhelming: float = 10.0
    gain: float = 0.1
    advantage: float = 4.0
    patience: int = 8
    _chances: Chances = field(default_factory=Chances, init=False, repr=False)
    _calls: tuple[tuple[LossCall, Standing], ...] = field(default=(), init=False, repr=False)
    _share: float = field(default=math.nan, init=False, repr=False)
    _loss: str = field(default="", init=False, repr=False)
    _shrinking: Shrinking = field(default_factory=Shrinking, init=False, repr=False)
    _gradients: Gradients | None = field(default=None, init=False, repr=False)
    _balanced: set[str] = field(default_factory=set, init=False, repr=False)

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember where the data loss stands."""
        self._calls = tuple(zip(obs.calls, self._chances.update(obs), strict=True))
        self._place(set())
        yield from ()

    def _place(self, penalties: set[int]) -> None:
        """Say where the data loss stands; a penalty on weights may look like a loss as well."""
        known = [
            (call, standing)
            for position, (call, standing) in enumerate(self._calls)
            if standing.chance > 0.0 and position not in penalties
        ]
        self._share = min((standing.share for _, standing in known), default=math.nan)
        self._loss = ""
        if known:
            call, standing = known[0]
            self._loss = (
                f" The {call.function} is {call.value:.3g}; chance is {standing.chance:.3g}."
            )

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember where the whole loss started, and where it is."""
        self._shrinking.hear_losses(obs)
        yield from ()

    def on_loss_terms(self, obs: LossTerms) -> Iterator[Finding]:
        """Compare the gradient of penalties on weights with that of the data, in the weights."""
        self._place({term.call for term in obs.terms if term.penalty})
        for total in {term.total for term in obs.terms}:
            terms = [t for t in obs.terms if t.total == total and math.isfinite(t.gradient)]
            penalty = math.sqrt(sum(t.gradient**2 for t in terms if t.penalty))
            data = math.sqrt(sum(t.gradient**2 for t in terms if not t.penalty))
            if self._dominates("penalty", penalty, data):
                value = sum(t.value for t in terms if t.penalty)
                message = (
                    f"The penalty on the weights ({value:.3g} of the loss) sends a gradient of"
                    f" {penalty:.2g} into them, the data one of {data:.2g}.{self._loss}"
                )
                yield self.finding(
                    obs, message, where="penalty on weights", penalty=penalty, data=data
                )
            yield from self._squeezed(obs, terms)

    def _squeezed(self, obs: LossTerms, terms: Sequence[LossTerm]) -> Iterator[Finding]:
        """Compare the gradient of penalties on activations with that of the rest."""
        data = math.sqrt(sum(t.gradient**2 for t in terms if not (t.activity or t.penalty)))
        for term in terms:
            loud = term.activity and term.gradient > self.clear * data
            if loud and data > 0.0 and self._share >= AT_CHANCE:
                message = (
                    f"The penalty on activations ({term.name} at {term.line}, {term.value:.3g} of"
                    f" the loss) sends a gradient of {term.gradient:.2g} into the layers that it"
                    f" shares with the data term, which sends {data:.2g}.{self._loss}"
                )
                where = f"loss term {term.name}"
                yield self.finding(obs, message, where=where, penalty=term.gradient, data=data)

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """Remember the gradients that the optimizer gets, and whether its weights have shrunk."""
        self._gradients = obs
        self._shrinking.hear_gradients(obs)
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Compare the part of the step that weight decay makes with the rest."""
        gradients = self._gradients
        if gradients is None or gradients.optimizer != obs.optimizer:
            return
        groups: dict[int, list[tuple[ParameterUpdate, float, float]]] = defaultdict(list)
        for name, update in obs.parameters.items():
            gradient = gradients.parameters.get(name)
            decays = update.decay and update.fan_in and update.lr
            if gradient is not None and gradient.present and decays:
                size = gradient.weight_norm / max(update.weight_rms, 1e-30)  # sqrt(numel)
                if update.decay == "decoupled":
                    decay = update.lr * update.weight_decay * update.weight_rms * size
                    whole = update.update_rms * size
                    if whole == 0.0:
                        continue  # a step that rounds to nothing shows nothing
                    groups[update.group].append((update, decay, _rest(whole, decay)))
                else:
                    decay = update.weight_decay * gradient.weight_norm
                    groups[update.group].append((update, decay, gradient.norm))
        for index, parts in groups.items():
            decay = math.sqrt(sum(part**2 for _, part, _ in parts))
            data = math.sqrt(sum(part**2 for _, _, part in parts))
            where = f"{obs.optimizer}, group {index}" if len(groups) > 1 else obs.optimizer
            if self._dominates(where, decay, data):
                message = (
                    f"weight_decay={parts[0][0].weight_decay:g} of {where} moves the weights"
                    f" {decay / max(data, 1e-30):.2g} times as much as the data do.{self._loss}"
                )
                yield self.finding(obs, message, where=where, decay=decay, data=data)

    def on_rate_trial(self, obs: RateTrial) -> Iterator[Finding]:
        """Compare copies that were trained with and without weight decay."""
        own = next((arm for arm in obs.arms if arm.factor == 1.0), None)
        if own is None or obs.undecayed is None:
            return
        gained, without = obs.start - own.end, obs.start - obs.undecayed.end
        worth = without > 0.0 and without >= self.gain * abs(obs.start)
        if worth and without >= self.advantage * gained:
            message = (
                f"In {len(own.losses)} steps of a copy from the initial weights the loss goes from"
                f" {obs.start:.3g} to {own.end:.3g}; with weight_decay=0 it goes to"
                f" {obs.undecayed.end:.3g}."
            )
            yield self.finding(
                obs,
                message,
                where=obs.optimizer,
                patience=1,
                start=obs.start,
                end=own.end,
                undecayed=obs.undecayed.end,
            )

    def _dominates(self, where: str, decay: float, data: float) -> bool:
        """Tell whether regularization outweighs the data, in a model that has learned little."""
        if not (decay > 0.0 and math.isfinite(decay) and math.isfinite(data)):
            return False
        if decay <= self.overwhelming * data:
            self._balanced.add(where)
        if math.isnan(self._share):
            stuck = self._shrinking.stuck and decay > self.clear * data
            return where not in self._balanced or stuck
        ratio = self.ratio if self._share >= AT_CHANCE else self.clear
        return self._share > HALF_WAY and decay > ratio * data


def _rest(whole: float, decay: float) -> float:
    """Return the part of a step that decay did not make, as if the two were at right angles."""
    return math.sqrt(max(whole**2 - decay**2, 0.0))
