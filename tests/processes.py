"""Runs a program in two processes that train together on the CPU: ``fit``, across a spawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy

from lightning_debug import DebugSuite
from tests.runs import quiet_trainer


class Report(pl.Callback):
    """Writes what the suite has found, where the parent can read it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write names, severities and places, from the first process."""
        suite: Any = next(c for c in trainer.callbacks if isinstance(c, DebugSuite))  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            found = [(f.name, str(f.severity), list(f.places)) for f in suite.findings]
            self.path.write_text(json.dumps([found, suite.failures]), encoding="utf-8")


def fit_in_two(
    module: Callable[[], pl.LightningModule], data: Any, folder: Path, **trainer: Any
) -> dict[str, tuple[str, list[str]]]:
    """Train in two processes; return severity and places of what was found, by name."""
    pl.seed_everything(0, verbose=False)
    report = folder / "findings.json"
    run = quiet_trainer(
        callbacks=[DebugSuite(debug=True, sinks=[]), Report(report)],
        strategy=DDPStrategy(start_method="fork", process_group_backend="gloo"),
        devices=2,
        **trainer,
    )
    run.fit(module(), data)
    found, failures = json.loads(report.read_text(encoding="utf-8"))
    assert not failures, failures
    return {name: (severity, places) for name, severity, places in found}
