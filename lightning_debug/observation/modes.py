"""In which mode the modules run."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes(Observation):
    """In which mode the modules ran, in a training step or in a validation step.

    Attributes:
        stage: ``"training"`` or ``"validation"``.
    """

    stage: str = "training"
