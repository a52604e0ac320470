"""How the parts of the model are wired together."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections(Observation):
    """Which tensors are registered, tied and cleared, at one look."""
