"""What the run logs and what watches it."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking(Observation):
    """The metrics that were logged so far, and the callbacks that watch them."""
