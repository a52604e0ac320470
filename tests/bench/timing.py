"""Times two trainings against each other, a block of steps of each in turn."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_debug.schedule import WHOLE_EVERY
from tests.bench.arms import ARMS, ENDLESS
from tests.bench.workloads import WORKLOADS

# Updates that are all looked at, and what looks only at the first of them.
SETTLED = 12
# Updates made already where only the steady state counts: intervals have grown by then.
EARLIER = 10_000
STEADY = ("between looks", "default", "every step")
# Blocks in a row that see an arm look which looks now and then.
LONG = {"mlp": 20, "resnet": 20, "gpt": 20, "deep": 60}


class _Stopped(Exception):  # noqa: N818 - not an error
    """A training has been timed to its end."""


class Turns(pl.Callback):
    """Stops a training between two batches until it is its turn, and times its turn.

    A batch is a whole: what is hooked in for the length of a step is gone when another runs.
    """

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._steps = self._left = 0
        self._started = 0.0
        self._stop = False
        self.seconds = 0.0
        self.error: BaseException | None = None

    def run(self, steps: int) -> float:
        """Let the training make so many steps; return its CPU seconds for each."""
        self._steps = steps
        self._switch()
        return self.seconds / steps

    def stop(self) -> None:
        """End the training."""
        self._stop = True
        if self.error is None:
            self._switch()

    def end(self) -> None:
        """The training is over: whoever waits for it goes on."""
        self._done.release()

    def on_train_batch_start(self, *args: Any) -> None:
        """Wait where a turn is over; the first of all callbacks, so that all others are timed."""
        if self._left == 0:
            if self._started:
                self.seconds = time.thread_time() - self._started
                self._done.release()
            self._go.acquire()
            if self._stop:
                raise _Stopped
            self._left = self._steps
            self._started = time.thread_time()
        self._left -= 1

    def _switch(self) -> None:
        self._go.release()
        self._done.acquire()
        if self.error is not None:
            raise RuntimeError("a training of the bench failed") from self.error


class Training:
    """A training in a thread of its own, which stands still until it is told to go on."""

    def __init__(self, workload: str, arm: str) -> None:
        self._turns = Turns()
        self._workload, self._arm = workload, arm
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def run(self, steps: int) -> float:
        """Make so many steps; return the CPU seconds of each."""
        return self._turns.run(steps)

    def stop(self) -> None:
        """End it."""
        self._turns.stop()
        self._thread.join()

    def _train(self) -> None:
        torch.set_num_threads(1)
        try:
            earlier = EARLIER if self._arm in STEADY else 0
            fit(self._workload, self._arm, self._turns, earlier=earlier)
        except _Stopped:
            pass
        except BaseException as error:
            self._turns.error = error
        self._turns.end()


def fit(
    workload: str,
    arm: str,
    *first: pl.Callback,
    last: tuple[pl.Callback, ...] = (),
    steps: int = ENDLESS,
    earlier: int = 0,
) -> pl.Trainer:
    """Train a workload with an arm.

    Args:
        workload: What is trained.
        arm: What is added to it.
        first: Callbacks before those of the arm.
        last: Callbacks after those of the arm.
        steps: How many steps.
        earlier: Updates that have been made already, as in a run that was resumed.
    """
    module, data, _ = WORKLOADS[workload]
    pl.seed_everything(0, verbose=False)
    settings = ARMS[arm]()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*first, *settings.pop("callbacks", []), *last],
            **settings,
        )
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        progress.optimizer.step.total.completed = earlier
        trainer.fit(module(), data())
    return trainer


@dataclass(frozen=True)
class Ratio:
    """How the steps of an arm compare to bare ones, over pairs of blocks.

    Attributes:
        pairs: Time of an arm over the time of the bare training next to it.
        bare: Median milliseconds of a bare step.
    """

    pairs: tuple[float, ...]
    bare: float

    @property
    def median(self) -> float:
        """Return the median ratio."""
        return median(self.pairs)

    def __str__(self) -> str:
        """Return the median and the range."""
        return f"{self.median:.3f} ({min(self.pairs):.2f}-{max(self.pairs):.2f})"


def compare(workload: str, arm: str, *, pairs: int, steps: int = 0, warm: int = 0) -> Ratio:
    """Time an arm against bare training.

    Args:
        workload: What is trained.
        arm: What is added to it.
        pairs: How often a block of each is timed, in turn.
        steps: Length of a block; 0 for that of the workload. The default arm has long blocks
            instead, for a look is a rare event, and a look at every step has whole rounds.
        warm: Steps of each before the first block; 0 for enough that it has settled.
    """
    long = LONG.get(workload, 1) if arm == "default" else 1
    pairs = pairs if long == 1 else max(2, pairs // 2)
    settled = warm or max(WORKLOADS[workload][2], SETTLED)
    steps = steps or (WHOLE_EVERY if arm == "every step" else long * WORKLOADS[workload][2])
    bare, other = Training(workload, "bare"), Training(workload, arm)
    try:
        for training in (bare, other):
            training.run(settled)
        times = []
        for pair in range(pairs):
            order = (bare, other) if pair % 2 == 0 else (other, bare)
            took = {id(training): training.run(steps) for training in order}
            times.append((took[id(bare)], took[id(other)]))
    finally:
        bare.stop()
        other.stop()
    ratios = tuple(other / bare for bare, other in times)
    return Ratio(ratios, 1e3 * median(bare for bare, _ in times))
