"""What came of an experiment on a copy of the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment that was made before, during or after a run, on a copy of the model.

    Attributes:
        name: What was tried: ``"one or two samples by heart"``.
        outcome: ``"passed"``, ``"found"`` or ``"not applicable"``.
        findings: Names of the findings that it bears on and that were told.
        detail: What was seen, or why it could not be made.
        step: Optimizer updates made before it.
        seconds: How long it took.
        curve: The loss of each step, where a copy was trained.
    """

    name: str
    outcome: str
    findings: tuple[str, ...] = ()
    detail: str = ""
    step: int = 0
    seconds: float = 0.0
    curve: tuple[float, ...] = ()
