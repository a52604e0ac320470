"""What came of an experiment on a copy of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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

    def as_dict(self) -> dict[str, Any]:
        """Return the experiment as plain values that JSON can hold."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Experiment:
        """Rebuild an experiment from :meth:`as_dict`; unknown keys are dropped.

        Raises:
            KeyError: If it has no name or no outcome.
            TypeError: If a number or a list is none.
            ValueError: If a number is none.
        """
        return cls(
            name=str(fields["name"]),
            outcome=str(fields["outcome"]),
            findings=tuple(map(str, fields.get("findings", ()))),
            detail=str(fields.get("detail", "")),
            step=int(fields.get("step", 0)),
            seconds=float(fields.get("seconds", 0.0)),
            curve=tuple(map(float, fields.get("curve", ()))),
        )
