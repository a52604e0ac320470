"""Gradient descent without a memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import GroupPlan, Plan


@dataclass(kw_only=True)
class SgdWithoutMomentum(Check):
    """The only optimizer is plain SGD, without momentum.

    Why: with momentum the same number of updates goes about ten times as far along directions
    in which gradients agree, and noise averages out. Plain SGD is slow on long valleys.

    Silent when: some group has momentum or the optimizer is of another kind; several optimizers
    train, or the training step runs the optimizer itself (meta-learning, federated rounds); the
    optimizer is a class of its own around SGD (differential privacy); decay is all that it does.

    Source: CS231n, Neural Networks Part 3, "SGD and bells and whistles".
    """

    severity = Severity.INFO
    fix = "torch.optim.SGD(..., momentum=0.9, nesterov=True) with a tenth of the rate, or AdamW."

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Read the settings of the optimizer."""
        if len(obs.optimizers) != 1 or not obs.automatic:
            return
        optimizer = obs.optimizers[0]
        if optimizer.kind == "SGD" and optimizer.groups and all(map(_plain, optimizer.groups)):
            rate = optimizer.groups[0].settings.get("lr", 0.0)
            message = f"{optimizer.label} runs with momentum=0 at a learning rate of {rate:.3g}."
            yield self.finding(obs, message, where=optimizer.label, lr=rate)


def _plain(group: GroupPlan) -> bool:
    return group.settings.get("momentum") == 0.0
