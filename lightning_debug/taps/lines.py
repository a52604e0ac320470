"""Where in the user's own code something happens."""

from __future__ import annotations

import sys
from pathlib import PurePath
from types import FrameType

LIBRARIES = ("torch", "pytorch_lightning", "lightning", "lightning_debug", "lightning_fabric")


def user_frame() -> FrameType | None:
    """Return the innermost frame of the user's own code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in LIBRARIES:
            return frame
        frame = frame.f_back
    return None


def user_line() -> str:
    """Return the line of the user's code that runs now: ``"train.py:41"``."""
    frame = user_frame()
    return f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else ""


def within(module: str) -> bool:
    """Tell whether a function of a module, by its full name, or of one inside it is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name == module or name.startswith(f"{module}."):
            return True
        frame = frame.f_back
    return False
