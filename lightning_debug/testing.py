"""Unit tests for models: ``assert_trains(model, data)`` fails where a training bug is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.sinks.text import plain
from lightning_debug.trial_run import STEPS, Preflight, preflight


def assert_trains(
    model: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    *,
    checks: Sequence[Check] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    steps: int = STEPS,
    seconds: float | None = None,
    trainer: Mapping[str, Any] | None = None,
    seed: int = 0,
    level: str = "warning",
) -> Preflight:
    """Fail where a model and its data have a training bug.

    A copy of the model is experimented with and trained for a few updates, from a seed of its
    own; the model, and all random generators, are left as they are.

    Args:
        model: A LightningModule.
        train_dataloaders: What ``Trainer.fit`` takes, a data module included, or a list of
            batches.
        val_dataloaders: Likewise, for validation.
        datamodule: Instead of both.
        checks: Checks with thresholds of your own.
        select: Look only for these findings or sections, as in ``DebugSuite``.
        ignore: Do not look for these.
        steps: Optimizer updates of the copy.
        seconds: Longest time for one experiment.
        trainer: Settings of your Trainer that matter for training, such as ``precision``.
        seed: Of all random numbers inside.
        level: The mildest severity that fails: ``"warning"`` or ``"error"``.

    Returns:
        What was found, and the experiments.

    Raises:
        AssertionError: If there is a finding of this severity; it has one line for each.
        TypeError: If an argument has the wrong type.
        ValueError: If there are no data, or a value is out of range.
    """
    __tracebackhide__ = True
    if level not in ("warning", "error"):
        raise ValueError(f"level={level!r} must be 'warning' or 'error'")
    found = preflight(
        model,
        train_dataloaders,
        val_dataloaders,
        datamodule,
        checks=checks,
        select=select,
        ignore=ignore,
        steps=steps,
        seconds=seconds,
        trainer=trainer,
        seed=seed,
    )
    bad = [finding for finding in found.findings if finding.severity >= Severity(level)]
    if bad:
        name = type(model).__name__
        many = f"{len(bad)} findings" if len(bad) > 1 else "1 finding"
        lines = [f"{name} does not train as it should: {many}", *map(_line, bad)]
        failure = AssertionError("\n".join(lines))
        failure.preflight = found  # type: ignore[attr-defined]  # the plugin for pytest shows it
        raise failure
    return found


def _line(finding: Finding) -> str:
    place = f" at {finding.where}" if finding.where else ""
    told = f"{finding.severity} {finding.name}{place}: {finding.message}"
    cause = f" Explained by {finding.caused_by}; fix that first." if finding.caused_by else ""
    return plain(f"{told}{cause or f' Fix: {finding.fix}'}")
