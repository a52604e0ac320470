"""Our own failures stay ours: said once, with the traceback, and the part switched off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Contain what is raised inside; an interrupt by the user passes."""
        try:
            yield
        except Exception as error:
            self.fail(part, error)

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
