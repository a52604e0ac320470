"""Gradients that an optimizer has used, and uses again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Connections, GradientUse


@dataclass(kw_only=True)
class GradientsNotCleared(Check):
    """An optimizer steps with gradients that belong to an earlier step or to another loss.

    Why: backward adds to what is in ``.grad``. What is not cleared is applied again and again, so
    steps grow and point to the past; what the loss of another optimizer has left there, such as
    the generator's in the discriminator, pulls the wrong way.

    Silent when: gradients of several batches or several losses are added up for one step
    (accumulation); they are cleared at any time between the step and the next one, by whom and
    to what ever (None, zero); a closure runs backward several times in one step; one backward
    serves two optimizers; what is left is cleared before the step that would use it.

    Args:
        steps: Steps of an optimizer in a row.
    """

    severity = Severity.ERROR
    fix = (
        "Call optimizer.zero_grad() before each manual_backward(); where the loss of one optimizer"
        " reaches the weights of another, clear those as well, or wrap it in"
        " self.toggle_optimizer(optimizer) and self.untoggle_optimizer(optimizer)."
    )

    steps: int = 3
    _again: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _mixed: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def on_connections(self, obs: Connections) -> Iterator[Finding]:
        """Count the steps that used old gradients, and those that used another's."""
        for use in obs.uses:
            _count(self._again, use, there=use.again)
            _count(self._mixed, use, there=bool(use.source))
            if self._again[use.optimizer] >= self.steps and use.again:
                message = (
                    f"{use.optimizer} has made {self._again[use.optimizer]} steps in a row with"
                    " gradients that it had used before: nothing cleared them, so those of the next"
                    " batch were added."
                )
                yield self.finding(obs, message, where=use.optimizer, steps=self.steps)
            elif self._mixed[use.optimizer] >= self.steps and use.source:
                message = (
                    f"{use.optimizer} steps with gradients that the loss of {use.source} has left"
                    f" in its weights: {use.source} has made its step, and nothing cleared them"
                    " before the next backward added to them."
                )
                yield self.finding(obs, message, where=use.optimizer, source=use.source)


def _count(steps: Counter[str], use: GradientUse, *, there: bool) -> None:
    if there:
        steps[use.optimizer] += 1
    elif use.known:
        steps[use.optimizer] = 0
