"""Tells the trainer's loggers: numbers for all of them, findings in each one's own way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from lightning_debug.containment import Containment
from lightning_debug.finding import Finding
from lightning_debug.picture import Picture
from lightning_debug.sinks import logger_pictures, logger_record
from lightning_debug.sinks.logger_kinds import for_logger
from lightning_debug.sinks.sink import RunInfo, Sink
from lightning_debug.sinks.text import paragraph, plain

PREFIX = "debug/"


class Loggers(Sink):
    """Writes to every logger of the trainer, next to the user's own metrics.

    Numbers are named ``debug/...``. Findings are shown as text where the logger can show text,
    and elsewhere as a metric ``debug/finding/<name>`` of value 1. Pictures are shown where the
    logger can show them, and a summary of what runs where it has a place for it. A logger that
    raises is left alone for the rest of the run.
    """

    draws: ClassVar[bool] = True

    def __init__(self) -> None:
        self._loggers: list[Any] = []
        self._told: list[Finding] = []
        self._record: dict[str, str | float] = {}
        self._contain = Containment()

    def start(self, run: RunInfo) -> None:
        """Remember the loggers of this run, and tell them what runs."""
        self._loggers = list(run.loggers)
        self._told, self._record = [], {}
        self._contain = Containment()
        self.record(run.record)

    def record(self, part: Mapping[str, Any]) -> None:
        """Tell more of what runs."""
        summary = logger_record.summary(part)
        new = {name: value for name, value in summary.items() if name not in self._record}
        if new:
            self._record |= new
            self._each(lambda logger: logger_record.log(logger, new, self._record))

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Show a new finding; later changes are left to the run folder."""
        if new:
            self._told.append(finding)
            self._each(self._show)

    def stats(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a look."""
        metrics = {_metric(name): float(value) for name, value in scalars.items()}
        self._each(lambda logger: logger.log_metrics(metrics, step=step))

    def picture(self, picture: Picture) -> None:
        """Show a picture."""
        self._each(lambda logger: logger_pictures.show(logger, PREFIX, picture))

    def _show(self, logger: Any) -> None:
        show = for_logger(logger, SHOWERS) or _show_as_metric
        show(logger, self._told)

    def _each(self, use: Callable[[Any], None]) -> None:
        for index, logger in enumerate(self._loggers):
            part = f"logger {index} ({type(logger).__name__})"
            if self._contain.works(part):
                with self._contain(part):
                    use(logger)


def _metric(name: str) -> str:
    """Return a metric name that every logger takes; MLflow is the strictest."""
    return PREFIX + re.sub(r"[^\w/. -]", "_", name, flags=re.ASCII)


def _show_as_metric(logger: Any, told: list[Finding]) -> None:
    logger.log_metrics({_metric(f"finding/{told[-1].name}"): 1.0}, step=told[-1].step)


def _show_in_tensorboard(logger: Any, told: list[Finding]) -> None:
    # TensorBoard renders Markdown; four spaces make it show the text as it is.
    text = "    " + paragraph(told[-1])
    logger.experiment.add_text(PREFIX + plain(told[-1].name), text, told[-1].step)


def _show_in_wandb(logger: Any, told: list[Finding]) -> None:
    # A table is logged as a whole: the last one replaces those before it.
    columns = ["step", "severity", "finding", "where", "message", "fix", "explained by"]
    rows = [
        [f.step, *map(plain, (f.severity, f.name, f.where, f.message, f.fix, f.caused_by))]
        for f in told
    ]
    logger.log_table(PREFIX + "findings", columns=columns, data=rows, step=told[-1].step)


def _show_in_mlflow(logger: Any, told: list[Finding]) -> None:
    text = "".join(paragraph(finding) + "\n" for finding in told)
    logger.experiment.log_text(logger.run_id, text, PREFIX + "findings.txt")


def _show_in_comet(logger: Any, told: list[Finding]) -> None:
    logger.experiment.log_text(paragraph(told[-1]), step=told[-1].step)


def _show_in_neptune(logger: Any, told: list[Finding]) -> None:
    logger.experiment[PREFIX + "findings"].append(paragraph(told[-1]), step=told[-1].step)


SHOWERS: dict[str, Callable[[Any, list[Finding]], None]] = {
    "TensorBoardLogger": _show_in_tensorboard,
    "WandbLogger": _show_in_wandb,
    "MLFlowLogger": _show_in_mlflow,
    "CometLogger": _show_in_comet,
    "NeptuneLogger": _show_in_neptune,
}
