"""Runs that nobody has seeded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import RunStart


@dataclass(kw_only=True)
class UnseededRun(Check):
    """Nobody has seeded the random numbers, so this run cannot be repeated.

    Why: initial weights, the order of the samples and dropout are others in each run. A bug cannot
    be chased, and whether a change has helped, or luck, cannot be told apart.

    Silent when: seed_everything was called, or torch.manual_seed with any number below 2**32;
    training goes on from a checkpoint, whose first run was told.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks": "always use a fixed random
    seed".
    """

    severity = Severity.INFO
    fix = (
        "Call seed_everything(42, workers=True) first in the script, before the model and the data"
        " are made."
    )

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """See whether somebody has seeded."""
        if not obs.seeded and not obs.resumed:
            message = (
                "Neither seed_everything nor torch.manual_seed was called: initial weights, order"
                " of samples and dropout differ in each run."
            )
            yield self.finding(obs, message)
