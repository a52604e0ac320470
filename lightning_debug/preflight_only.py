"""Makes the experiments of a run, and ends it before it begins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
from rich.console import Console

from lightning_debug.environment import ANSWER
from lightning_debug.section import Section
from lightning_debug.trial_run import before


class PreflightOnly(pl.Callback):
    """Takes over from the suites of a run, tells what comes of a preflight, and exits."""

    def __init__(self) -> None:
        self._sections: list[Section] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Switch the suites off; those of the script still say what is to be looked for."""
        callbacks = getattr(trainer, "callbacks")  # noqa: B009 - set, not declared
        found = [callback for callback in callbacks if isinstance(callback, Section)]
        own = [section for section in found if not section.from_environment]
        self._sections = self._sections or own or found
        for section in found:
            section.debug = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the experiments, and end the process: the run would begin now."""
        code = 0
        if trainer.is_global_zero:
            found = before(trainer, pl_module, self._sections)
            code = 0 if found.ok else 1
            sys.stderr.flush()
            Console().print(found)
            sys.stdout.flush()
            if os.environ.get(ANSWER):
                Path(os.environ[ANSWER]).write_text(str(code), encoding="ascii")
        raise SystemExit(code)
