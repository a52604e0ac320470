"""Summands of the loss that train nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import LossTerm, LossTerms

CUTS = ("detach", "__get__", "detach_", "requires_grad_")


@dataclass
class _Number:
    """A number over the looks."""

    last: float = math.nan
    risen: bool = False
    fallen: bool = False

    def wavers(self, value: float) -> bool:
        """Take in the next value; tell whether it has both risen and fallen."""
        self.risen = self.risen or value > self.last
        self.fallen = self.fallen or value < self.last
        self.last = value
        return self.risen and self.fallen


@dataclass(kw_only=True)
class ConstantLossTerms(Check):
    """A term is added to the loss, but no gradient goes from it to any parameter.

    Why: backward does not see the term. It is in the number that is logged, so it looks as if it
    were trained, and the model is trained without it.

    Silent when: the value is only logged; it is zero (a sum that starts at 0, a term that is
    switched off); it is a fixed number or one that only rises or falls (an offset, a schedule);
    it comes from the weights of frozen layers, or is the entropy of what they give for a target;
    another summand takes it away again (a straight-through estimate); it has a gradient at some
    looks; its gradient goes to a tensor that somebody keeps (latent codes, an image), or the step
    may use it itself (manual optimization).

    Args:
        patience: Looks in a row.
    """

    severity = Severity.ERROR
    fix = "Compute the term from the model's output with differentiable functions only."

    patience: int = 3
    _numbers: list[_Number] = field(default_factory=list, init=False, repr=False)
    _trained: set[str] = field(default_factory=set, init=False, repr=False)

    def on_loss_terms(self, obs: LossTerms) -> Iterator[Finding]:
        """List the summands without a gradient."""
        self._trained |= {term.name for term in obs.terms if term.trained}
        numbers = iter(range(len(obs.terms)))
        for term in obs.terms:
            if term.trained or term.name in self._trained or term.value == 0.0:
                continue
            if term.cut == "item":
                position = next(numbers)
                self._numbers += [_Number() for _ in range(position + 1 - len(self._numbers))]
                if not self._numbers[position].wavers(term.value):
                    continue  # a fixed number is meant, and so is a schedule
            size = sum(abs(t.value) for t in obs.terms if t.total == term.total)
            share = abs(term.value) / size if size > 0 else 0.0
            cause, fix = _explain(term)
            cause += f" at {term.cut_line}" if term.cut_line not in ("", term.line) else ""
            line = f" ({term.line})" if term.line else ""
            message = (
                f"{term.name}{line} adds {term.value:.3g} to the loss ({share:.0%} of it) and"
                f" trains nothing: {cause}."
            )
            where = f"loss term {term.name}"
            yield self.finding(obs, message, where=where, fix=fix, value=term.value, cut=term.cut)


def _explain(term: LossTerm) -> tuple[str, str]:
    """Return why a term has no gradient, and what to type."""
    if term.cut == "item":
        return (
            "it was read out of its tensor, with .item() or float()",
            "Add the tensor itself: leave out .item() and float().",
        )
    if term.cut in CUTS:
        return (
            "its gradient was cut by .detach() or .data",
            "Leave out .detach() and .data on the way to this term.",
        )
    if term.cut == "no_grad":
        return (
            "it was computed under torch.no_grad()",
            "Compute it outside of torch.no_grad(), from the output of the layers that you train.",
        )
    if term.cut == "input":
        return (
            "its gradient goes to an input of the model only, and reaches no parameter",
            "Take a derivative that is part of the loss with torch.autograd.grad(u.sum(), x,"
            " create_graph=True); leave out .detach() on the way to this term.",
        )
    if term.cut == "frozen":
        return (
            "it comes from layers that are not trained",
            "Compute it from the output of the layers that you train (the student, not the"
            " teacher), or leave it out.",
        )
    return (
        f"{term.cut} has no gradient",
        f"Use a differentiable function in place of {term.cut}: probabilities (softmax, sigmoid)"
        " in place of decisions (argmax, comparisons).",
    )
