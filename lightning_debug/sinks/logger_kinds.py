"""Which kind of logger one is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def for_logger(logger: Any, table: Mapping[str, T]) -> T | None:
    """Return the entry of a table for a logger, by the name of its class; None for none.

    The names tell: the two Lightning namespaces have one class each, and importing either would
    load the other's half as well.
    """
    return next((table[c.__name__] for c in type(logger).__mro__ if c.__name__ in table), None)
