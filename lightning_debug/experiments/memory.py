"""Memory that was freed, and that the process still holds."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator


def give_back() -> None:
    """Hand freed memory back to the system.

    The allocator of glibc keeps what is freed below memory that is used. Experiments and steps of
    the run leave holes of other sizes, which would add up.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def trimmed() -> Iterator[None]:
    """Hand back what was freed before, and what is freed inside."""
    give_back()
    try:
        yield
    finally:
        give_back()


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """Return what does it; None where memory is managed by another library."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found
