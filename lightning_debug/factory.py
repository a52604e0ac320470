"""Switches the suite on in an unmodified script: ``LIGHTNING_DEBUG=1 python train.py``.

Lightning's Trainer loads this by itself, through the entry points ``callbacks_factory``. Without
the variable nothing is imported and no callback is added. ``LIGHTNING_DEBUG=preflight`` makes the
experiments and ends the script before its first batch, as ``lightning-debug run --preflight-only``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from lightning_debug.environment import OFF, ON, ONLY, VARIABLE

_off: ContextVar[bool] = ContextVar("lightning_debug_off", default=False)


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Give no suite to the trainers that are made inside."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def callbacks() -> list[Any]:
    """Return the suite if the environment asks for it, else nothing.

    Raises:
        ValueError: If the variable is neither on nor off.
    """
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value in OFF or _off.get():
        return []
    if value not in ON and value != ONLY:
        raise ValueError(f"{VARIABLE}={value!r} is neither on (1) nor off (0) nor {ONLY!r}")
    from lightning_debug.suite import DebugSuite

    suite = DebugSuite(debug=True)
    suite.from_environment = True
    if value != ONLY:
        return [suite]
    from lightning_debug.preflight_only import PreflightOnly

    return [suite, PreflightOnly()]
