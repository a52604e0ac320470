"""What a whole run costs, each measured in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import pytorch_lightning as pl


class _FirstBatch(pl.Callback):
    """Notes when training starts; the last of all callbacks."""

    seconds = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note it."""
        self.seconds = self.seconds or time.process_time()


def measure(workload: str, arm: str, steps: int) -> dict[str, float]:
    """Train in a process of its own; return CPU seconds and the largest memory in MB."""
    command = [sys.executable, "-m", "tests.bench", "_one", workload, arm, str(steps)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def one(workload: str, arm: str, steps: int) -> None:
    """Train, and print what it took."""
    from tests.bench.timing import fit

    first = _FirstBatch()
    start = time.process_time()
    trainer = fit(workload, arm, steps=steps, last=(first,))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert trainer.global_step == steps
    print(json.dumps({"seconds": seconds, "peak": peak, "before": first.seconds - start}))


def whole(workload: str, steps: int = 1000) -> str:
    """Compare whole runs: start-up, experiments, looks and the report among them."""
    bare, ours = (measure(workload, arm, steps) for arm in ("bare", "whole"))
    ratio = ours["seconds"] / bare["seconds"]
    added = ours["seconds"] - bare["seconds"]
    return (
        f"{workload}, {steps} steps: bare {bare['seconds']:.1f} s, with the suite {ratio:.3f} times"
        f" as much (+{added:.1f} s)"
    )


def memory(workload: str = "gpt", steps: int = 20) -> str:
    """Compare the largest memory of runs, without experiments on copies and with them."""
    bare, looks, whole = (
        measure(workload, arm, steps)["peak"] for arm in ("bare", "default", "whole")
    )
    return (
        f"{workload}: bare {bare:.0f} MB, with looks {looks / bare:.3f} times as much,"
        f" with experiments as well {whole / bare:.3f} times"
    )


def startup(workload: str = "mlp") -> str:
    """Measure what importing the package adds, and what the suite adds before the first batch."""
    code = (
        "import torch, pytorch_lightning, time; start = time.perf_counter();"
        " from lightning_debug import DebugSuite; print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(3)
    ]
    imported = min(float(run.stdout) for run in runs)
    bare, ours = (measure(workload, arm, 1) for arm in ("bare", "default"))
    added = ours["before"] - bare["before"]
    return f"import {imported:.2f} s; start of a run of {workload} {added:.2f} s"
