"""Processes that train models of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import BREAKS_ALL, Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Ranks, RankTensor


@dataclass(kw_only=True)
class RanksDiverged(Check):
    """Parameters or buffers that must be equal in all processes are not.

    Why: each process trains a model of its own on its share of the data, the gradient is that of
    none of them, and only the model of the first process is saved.

    Silent when: a tensor is sharded; the strategy leaves it out or averages models from time to
    time; copies differ by rounding. Buffers that training changes, such as the running statistics
    of batch norms, are info: each process keeps its own until the first one's are sent to all.

    Source: pytorch-lightning issues 3628, 6013 and 16856.

    Args:
        tolerance: Largest relative distance between norms that counts as rounding.
        patience: Looks in a row.
    """

    fix = (
        "Let all processes do the same with the model: load weights before Trainer.fit() or with"
        " ckpt_path, use self.manual_backward(loss) in manual optimization, draw random numbers"
        " for weights from a generator with the same seed everywhere."
    )
    severity = Severity.ERROR
    symptom_of = BREAKS_ALL

    tolerance: float = 1e-5
    patience: int = 3

    def on_ranks(self, obs: Ranks) -> Iterator[Finding]:
        """List the tensors that differ."""
        for name, tensor in obs.tensors.items():
            largest = max(tensor.weight, tensor.gradient, tensor.update)
            if not largest > self.tolerance:
                continue
            own = tensor.kind == "buffer" and tensor.changes
            reason, fix = _reason(tensor, self.tolerance)
            ranks = ", ".join(map(str, obs.farthest))
            most = f" Rank {ranks} is farthest from the others." if ranks else ""
            yield self.finding(
                obs,
                f"{name} is not the same in the {obs.processes} processes: {reason}{most}",
                where=name,
                severity=Severity.INFO if own else Severity.ERROR,
                fix=fix or self.fix,
                weight=tensor.weight,
                gradient=tensor.gradient,
                update=tensor.update,
                processes=float(obs.processes),
                rank=ranks or "all",
            )


def _reason(tensor: RankTensor, tolerance: float) -> tuple[str, str]:
    """Return in words what differs, and a fix of its own for that, if there is one."""
    apart = f"its norm is {tensor.weight:.2g} (relative) from their mean"
    if tensor.kind == "buffer" and tensor.changes:
        return (
            f"each updates its own, and {apart}.",
            "Nothing, if it only counts or averages what a process has seen; for batch norm"
            " Trainer(sync_batchnorm=True). The model of the first process is the one that is"
            " saved.",
        )
    if tensor.kind == "buffer":
        return (
            f"no process changes it, and {apart}.",
            "Make the buffer before Trainer.fit(), from a seed that all processes share.",
        )
    if tensor.gradient > tolerance:
        return (
            f"their gradients are not averaged (relative distance {tensor.gradient:.2g}).",
            "Call the model through self(...) in training_step, use self.manual_backward(loss)"
            " instead of loss.backward(), and do not leave the parameter out of what the strategy"
            " wraps.",
        )
    if tensor.early:
        return (
            f"they differed before the first update, and {apart}.",
            "Load or initialise weights before Trainer.fit(), or in all processes alike.",
        )
    if tensor.update > tolerance:
        return (
            f"their gradients are the same and their updates are not (relative distance"
            f" {tensor.update:.2g}): the state or the settings of the optimizer differ.",
            "Load the state of the optimizer, and set learning rates, in all processes alike.",
        )
    return (
        f"gradients and updates are the same, so something else than the optimizer has changed it,"
        f" and {apart}.",
        "Where weights are changed by hand, each process must make the same changes to its copy, or"
        " they must be sent to all of them.",
    )
