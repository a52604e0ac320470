"""Long runs at one learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Schedules


@dataclass(kw_only=True)
class NoScheduler(Check):
    """A long run trains at one constant learning rate.

    Why: a learning rate that is good at the start is too large for the end: the loss then jumps
    around its minimum. Letting it fall over the run often gains more than a larger model does.

    Silent when: a scheduler is there, or the rate changes in another way; the run is short; the
    optimizer searches the line or averages (LBFGS, schedule-free); nobody can tell how long the
    run is.

    Source: Defazio et al. 2023, "When, Why and How Much? Adaptive Learning Rate Scheduling by
    Refinement".

    Args:
        updates: Length of a run from which a schedule is worth its while.
    """

    severity = Severity.INFO
    fix = (
        "Add scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer,"
        " T_max=self.trainer.estimated_stepping_batches) and return"
        ' {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}};'
        ' or ReduceLROnPlateau with "monitor": "val_loss".'
    )

    updates: int = 1000

    def on_schedules(self, obs: Schedules) -> Iterator[Finding]:
        """See whether the rates have changed by the middle of the run."""
        if obs.trial or obs.updates < self.updates or 2 * obs.step < obs.updates:
            return
        if obs.schedules or any(rate.scheduled for rate in obs.optimizers):
            return
        for rate in obs.optimizers:
            if rate.constant and not rate.adapts:
                message = (
                    f"The learning rate of {rate.optimizer} has been {rate.lr:.3g} since the"
                    f" start, for {obs.step} of {obs.updates} updates, and no scheduler is there."
                )
                yield self.finding(obs, message, where=rate.optimizer, lr=rate.lr)
