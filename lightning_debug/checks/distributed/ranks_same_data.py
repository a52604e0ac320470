"""Processes that all train on the same samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Ranks, RunStart


@dataclass(kw_only=True)
class RanksSameData(Check):
    """Several processes train on the same batches.

    Why: their gradients are the same, so averaging them gains nothing: the run costs as much as
    with all of the data and learns as from a part of it, or reads every sample several times in
    an epoch.

    Silent when: each process has batches of its own; processes hold parts of one model and must
    see the same; all samples of a batch are alike, or every batch is; the trainer overfits a few
    batches; there are fewer samples than a batch in each process takes.

    Source: pytorch-lightning issue 12986; Google's Deep Learning Tuning Playbook.

    Args:
        patience: Batches in a row.
    """

    fix = (
        "Leave Trainer(use_distributed_sampler=True), or use DistributedSampler yourself; in an"
        " IterableDataset take every trainer.world_size-th sample, from trainer.global_rank on."
    )
    severity = Severity.ERROR

    patience: int = 4
    _few: bool = field(default=False, init=False, repr=False)
    _last: tuple[float, float] = field(default=(float("nan"),) * 2, init=False, repr=False)
    _varied: bool = field(default=False, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember how many samples there are."""
        loader = obs.loader
        self._few = loader.overfit or (loader.known and loader.batches == 1)
        yield from ()

    def on_ranks(self, obs: Ranks) -> Iterator[Finding]:
        """Compare the batches of this look."""
        last, self._last = self._last, (obs.batch, obs.targets)
        whole = bool(obs.same_batch)
        groups = obs.same_batch or obs.same_targets
        # Of targets alone many batches may have the same by chance, or by construction.
        moved = last[0] != obs.batch if whole else last[1] != obs.targets
        if self._few or not groups or not moved:
            return
        ranks = ", ".join(map(str, groups[0]))
        everyone = len(groups[0]) == obs.processes
        who = f"All {obs.processes} processes" if everyone else f"The processes of rank {ranks}"
        what = "the same samples in the same order" if whole else "the same targets in one order"
        yield self.finding(
            obs,
            f"{who} train on {what}, in batch after batch.",
            where="train_dataloader",
            processes=float(obs.processes),
            rank=ranks,
        )
