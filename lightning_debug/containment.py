"""Our own failures stay ours: said once, with the traceback, and the part switched off."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from types import TracebackType

log = logging.getLogger("lightning_debug")


class Containment:
    """Runs parts of the debugger so that their failures never reach the user's run.

    Attributes:
        failures: Parts that were switched off, with the error of each.
    """

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}

    def works(self, part: str) -> bool:
        """Tell whether the part has not failed."""
        return part not in self.failures

    def __call__(self, part: str) -> AbstractContextManager[None, bool]:
        """Contain what is raised inside; an interrupt by the user passes."""
        return _Contained(self, part)

    def fail(self, part: str, error: Exception) -> None:
        """Switch a part off and say so, the first time."""
        if part not in self.failures:
            self.failures[part] = f"{type(error).__name__}: {error}"
            log.warning(
                "lightning_debug: %s failed and is switched off for this run; training is not"
                " affected. Please report this.",
                part,
                exc_info=error,
            )


class _Contained:
    """Hands what is raised inside to the containment; a class, for it is entered at every step."""

    __slots__ = ("_containment", "_part")

    def __init__(self, containment: Containment, part: str) -> None:
        self._containment = containment
        self._part = part

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self._containment.fail(self._part, error)
            return True
        return False
