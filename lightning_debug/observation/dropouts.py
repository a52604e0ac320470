"""Where values are dropped."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutCall:
    """One dropout, as a module or as a function.

    Attributes:
        place: The module path in which it ran.
        function: Name of the function: ``"dropout"``.
        p: Probability to drop a value.
        line: The line of the user's code that called it: ``"model.py:41"``.
    """

    place: str
    function: str = "dropout"
    p: float = 0.5
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropouts(Observation):
    """The dropouts that were active in one step.

    Attributes:
        stage: ``"training"`` or ``"validation"``.
    """

    stage: str = "training"
    calls: tuple[DropoutCall, ...] = ()

    @property
    def stream(self) -> str:
        """Return the stage: looks in a row are of one."""
        return self.stage
