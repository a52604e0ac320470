"""One summand of the loss drowns another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.chance import Chances
from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossCalls, LossTerm, LossTerms


@dataclass(kw_only=True)
class LossScaleImbalance(Check):
    """The gradient of one loss term drowns that of another, which stays at chance.

    Why: the terms of a loss share layers, and each layer can follow one direction at a time. A
    term whose gradient is a hundred times smaller than another's has no say in it: its task is
    not learned, whatever the sum of the losses does.

    Silent when: the small term has learned something (below 0.9 of its chance level), still comes
    down to that level, or has none to compare with; the terms share no layers; gradients differ
    for a few steps only. A term that was given a weight below ``small_weight`` is info: it is
    small on purpose.

    Source: Chen et al., GradNorm (2018); Kendall et al., Multi-Task Learning Using Uncertainty to
    Weigh Losses (2018).

    Args:
        ratio: Smallest ratio of the gradients that counts as drowning.
        small_weight: Largest factor before a term that says that it is meant to be small.
        patience: Looks in a row.
    """

    symptom_of = ("non-finite-loss", "update-too-large", "exploding-gradient")
    fix = "Bring the terms to one scale: multiply each by a weight, or normalise the targets."

    ratio: float = 100.0
    small_weight: float = 0.3
    patience: int = 10
    _chances: Chances = field(default_factory=Chances, init=False, repr=False)
    _at_chance: dict[int, tuple[float, float]] = field(default_factory=dict, init=False, repr=False)

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember which losses have learned nothing yet."""
        self._at_chance = {
            i: (standing.value, standing.chance)
            for i, standing in enumerate(self._chances.update(obs))
            if math.isfinite(standing.chance) and not (standing.learned or standing.coming)
        }
        yield from ()

    def on_loss_terms(self, obs: LossTerms) -> Iterator[Finding]:
        """Compare the gradients that the summands send into shared layers."""
        for total in {term.total for term in obs.terms}:
            terms = [
                t for t in obs.terms if t.total == total and t.gradient > 0.0 and not t.penalty
            ]
            if len(terms) < 2:
                continue
            loudest = max(terms, key=lambda term: term.gradient)
            for term in terms:
                drowned = loudest.gradient >= self.ratio * term.gradient
                if drowned and math.isfinite(loudest.gradient) and term.call in self._at_chance:
                    yield self._drowned(obs, term, loudest)

    def _drowned(self, obs: LossTerms, term: LossTerm, loudest: LossTerm) -> Finding:
        value, chance = self._at_chance[term.call]
        times = loudest.gradient / term.gradient
        message = (
            f"The gradient of {loudest.name} in the shared layers is {times:.2g} times that of"
            f" {term.name}, which has learned nothing: its loss is {value:.3g}, chance is"
            f" {chance:.3g}."
        )
        small = abs(term.weight) <= self.small_weight
        return self.finding(
            obs,
            message,
            where=f"loss term {term.name}",
            severity=Severity.INFO if small else None,
            fix=(
                f"Divide {loudest.name} by about {_round(times)}, or normalise what makes it large"
                " (standardise its targets, take the mean and not the sum)."
            ),
            gradient=term.gradient,
            loudest=loudest.gradient,
        )


def _round(value: float) -> str:
    """Return the power of ten next to a number."""
    return f"{10 ** round(math.log10(value)):g}"
