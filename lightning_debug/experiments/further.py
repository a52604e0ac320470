"""Trains a replica on from where the run has left it, with an optimizer that suits most models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lightning_debug.experiments.replica import NotApplicableError, Replica, single


def train_on(
    replica: Replica,
    batches: Sequence[Any],
    *,
    rate: float,
    rounds: Sequence[int],
    end: float,
    fewest: int,
) -> Iterator[int]:
    """Train with Adam, without weight decay, and yield after each round.

    From then on the replica starts every run from the weights that it has by then.

    Args:
        replica: Inside :meth:`Replica.working`.
        batches: Those to train on, in turn.
        rate: Learning rate.
        rounds: How many updates to make in each round.
        end: When to stop, in seconds of ``time.monotonic``.
        fewest: Rounds after which it may just stop then.

    Yields:
        The updates made.

    Raises:
        NotApplicableError: If it cannot be trained, or there is no time for so many rounds.
    """
    held = [p for o in replica.optimizers for group in o.param_groups for p in group["params"]]
    trained = [p for p in held if p.requires_grad]
    if not trained:
        raise NotApplicableError("nothing is trained")
    optimizer, made = torch.optim.Adam(trained, lr=rate), 0
    for done, count in enumerate(rounds):
        replica.evaluating = False
        replica.restore()
        for _ in range(count):
            loss = single(replica.advance(batches[made % len(batches)], index=made))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if any(p.grad is not None and p.grad.is_sparse for p in trained):
                raise NotApplicableError("gradients are sparse")
            with torch._C.DisableTorchFunction():
                optimizer.step()
            made += 1
            if time.monotonic() > end and done >= fewest:
                return
            if time.monotonic() > end:
                raise NotApplicableError("the time for experiments was used up")
        replica.rebase([tensor.detach().clone() for tensor, _ in replica.started()])
        yield made
