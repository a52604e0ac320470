"""Runs programs in several processes that train together on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy

from lightning_debug import DebugSuite
from tests.runs import quiet_trainer

TIMEOUT = 60.0


def ddp(**settings: Any) -> DDPStrategy:
    """Return the strategy that forks its processes, so that a test can hand over what it likes."""
    return DDPStrategy(start_method="fork", process_group_backend="gloo", **settings)


def fit_in_two(
    module: Callable[[], pl.LightningModule],
    data: Any,
    *,
    callbacks: tuple[pl.Callback, ...] = (),
    suite: DebugSuite | None = None,
    **trainer: Any,
) -> DebugSuite:
    """Train in two processes with the whole suite on, and return the suite.

    Without experiments, unless ``suite`` makes them: they take longer than these trainings.
    """
    pl.seed_everything(0, verbose=False)
    suite = suite or DebugSuite(debug=True, sinks=[], preflight=False)
    settings = {"strategy": ddp(), "devices": 2} | trainer
    quiet_trainer(callbacks=[suite, *callbacks], **settings).fit(module(), data)
    assert not suite.failures, suite.failures
    return suite


def in_processes(function: Callable[[], Any], processes: int = 2) -> list[Any]:
    """Call a function in several processes, as a cluster does, and return what each gives.

    A Trainer in it finds the others, with any strategy.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = context.Queue()
    workers = [
        context.Process(target=_work, args=(function, rank, processes, port, answers))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        found = dict(answers.get(timeout=TIMEOUT) for _ in workers)
    finally:
        for worker in workers:
            worker.join(5.0)
            worker.kill()
    for rank, (error, _) in sorted(found.items()):
        assert not error, f"rank {rank}: {error}"
    return [answer for _, (_, answer) in sorted(found.items())]


def _work(function: Callable[[], Any], rank: int, processes: int, port: int, answers: Any) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        TORCHELASTIC_RUN_ID="test",
    )
    try:
        answers.put((rank, ("", function())))
    except BaseException:
        answers.put((rank, (traceback.format_exc(), None)))
