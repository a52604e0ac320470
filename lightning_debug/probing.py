"""Which experiments a run makes, how long they may take, and what came of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import pytorch_lightning as pl

from lightning_debug import together, trainers
from lightning_debug.experiment import Experiment
from lightning_debug.experiments.batches import NotApplicableError, detached
from lightning_debug.experiments.probes import PROBES, TITLES, Budget, Made, Probes
from lightning_debug.nested import Nested
from lightning_debug.observation import Overfit, Precision, StepRepeat
from lightning_debug.session import Session
from lightning_debug.sinks.progress import Progress, interactive
from lightning_debug.taps.processes import Processes

Preflight = bool | float | Literal["auto"]


def budget(preflight: Preflight) -> Budget | None:
    """Return how long experiments may take; None: they are not to be made."""
    if preflight == "auto":
        return Budget()
    if isinstance(preflight, bool):
        return Budget(probes=30.0, trainings=60.0) if preflight else None
    if isinstance(preflight, (int, float)) and preflight > 0:
        return Budget(probes=preflight, trainings=preflight, share=0.0)
    raise ValueError(f"preflight={preflight!r} must be True, False, 'auto' or a number of seconds")


def told(made: Made, session: Session, mine: set[str] | None = None) -> Experiment:
    """Return an experiment with the findings that came of it: all, or those of a section."""
    findings = tuple(n for n in session.found(made.kind) if mine is None or n in mine)
    outcome = "not applicable" if made.skipped else "found" if findings else "passed"
    return Experiment(
        name=TITLES[made.kind],
        outcome=outcome,
        findings=() if made.skipped else findings,
        detail=made.skipped or made.summary,
        step=made.step,
        seconds=made.seconds,
        curve=made.curve,
    )


def copied(batch: Any) -> Any:
    """Return a copy of a batch; None where it cannot be copied."""
    try:
        return detached(batch)
    except NotApplicableError:
        return None


def announcer(session: Session) -> Progress | None:
    """Return what says which experiment is made; None where nobody looks."""
    if not interactive():
        return None
    return Progress(sum(map(session.wants, (Overfit, StepRepeat, Precision, *PROBES))))


def probes(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    budget: Budget,
    *,
    validation: Any,
    announce: Progress | None,
    processes: Processes | None,
) -> Probes | None:
    """Return the experiments to make: of several processes, by the first, on a model of its own.

    Args:
        trainer: Is about to train.
        module: What it trains.
        budget: How long they may take.
        validation: A copy of a batch of the validation data; None where there is none.
        announce: Says which one is made.
        processes: Those that train together; None where they could not be asked.
    """
    if trainer.world_size > 1 and (processes is None or not trainers.replicates(trainer)):
        trainers.say(
            "lightning_debug: no experiments, because no process has the whole model;"
            " lightning_debug.preflight(model, datamodule=...) makes them in one"
        )
        return None
    if not trainer.is_global_zero:
        return None
    if not together.alone():
        trainers.say(
            "lightning_debug: no experiments, because another thread trains in this process;"
            " lightning_debug.preflight(model, datamodule=...) makes them by themselves"
        )
        return None
    return Probes(
        module,
        trainer.optimizers,
        updates=trainer.estimated_stepping_batches,
        clip=(
            float(trainer.gradient_clip_val or 0.0),
            str(trainer.gradient_clip_algorithm or "norm"),
        ),
        precision=trainer.precision_plugin.train_step_context,
        scaler=trainers.scaler(trainer),
        training=Nested(trainer),
        validation=validation,
        budget=budget,
        announce=announce or nullcontext,
        skippable=announce is not None,
        alone=processes.alone if processes else nullcontext,
    )
