"""Graphs that are kept alive from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Holder, KeptGraphs


@dataclass(kw_only=True)
class MemoryGrowth(Check):
    """The graphs of steps long past are still in memory, and there are ever more of them.

    Why: a tensor that carries its graph keeps every operation behind it alive, with the
    activations of the step where no backward has freed them. Each step adds its own, until the
    memory is full, often after hours.

    Silent when: they are let go of when an epoch begins or ends, as a list that is emptied there;
    what holds them is bounded; or only the last step is kept. A run of one epoch is judged at its
    end, and only if the model has no hook in which it could let go of them.

    Args:
        graphs: Fewest graphs of past epochs that are still there; of the whole run if that is one
            epoch.
        updates: Fewest updates that the oldest has outlived.
    """

    fix = (
        "Keep numbers in place of tensors that carry their graph: self.history.append("
        "loss.detach()), or loss.item(); and for a running mean"
        " self.mean = 0.9 * self.mean + 0.1 * loss.detach()."
    )

    graphs: int = 6
    updates: int = 12

    def on_kept_graphs(self, obs: KeptGraphs) -> Iterator[Finding]:
        """Count the graphs that have outlived their epoch."""
        past = [step for step, epoch in obs.steps if obs.final or epoch < obs.epoch]
        if len(past) < self.graphs or obs.step - past[0] < self.updates:
            return
        growing = [holder for holder in obs.holders if not holder.bounded]
        if obs.holders and not growing:
            return
        yield self.finding(
            obs,
            f"The graphs of steps since update {past[0]} are still in memory after"
            f" {obs.step} updates, {len(past)} of those that were looked at. {_held(growing)}",
            where=growing[0].place if growing else "training_step",
            graphs=float(len(past)),
            oldest=float(past[0]),
            tensors=float(sum(holder.count for holder in growing)),
        )


def _held(holders: list[Holder]) -> str:
    if not holders:
        return "Something computes with tensors of earlier steps, or holds them outside the model."
    most = max(holders, key=lambda holder: holder.count)
    many = "a tensor that carries its" if most.count == 1 else f"{most.count} tensors with their"
    return f"{most.place} holds {many} graph{'s' if most.count > 1 else ''}."
