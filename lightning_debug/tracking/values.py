"""Values of a run as plain data of bounded size, without secrets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from pathlib import PurePath
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

from lightning_debug.tracking.secrets import redacted

MOST_CHARACTERS = 2000
MOST_ITEMS = 200
MOST_DEPTH = 6
MOST_IN_ALL = 180_000
# Of a long text so much is searched for secrets before it is cut: one may lie across the cut.
SEARCHED = 3 * MOST_CHARACTERS


def safe(value: Any) -> Any:
    """Return any value as plain data for a record: bounded, and without secrets.

    Of objects the class is told and nothing asked: their code is the user's. Only mappings,
    sequences, dataclasses and namespaces are looked into.
    """
    return _cut(redacted(_plain(value, MOST_DEPTH)))


def fitting(part: Mapping[str, Any], most: int = MOST_IN_ALL) -> dict[str, Any]:
    """Return a part of a record without its largest entries, if it is too large in all."""
    sizes = {key: len(json.dumps(value)) for key, value in part.items()}
    kept = dict(part)
    while sum(sizes.values()) > most:
        key = max(sizes, key=lambda key: sizes[key])
        kept[key] = f"(left out: {sizes[key]} characters)"
        sizes[key] = 0
    return kept


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, Enum)):
        return _scalar(value)
    if depth == 0:
        return _named(value)
    try:
        if isinstance(value, Mapping):
            return _mapping(value.items(), len(value), depth)
        if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, range)):
            items = [_plain(item, depth - 1) for item in islice(value, MOST_ITEMS)]
            left = len(value) - len(items)
            return [*items, f"... and {left} more"] if left > 0 else items
        fields = _fields(value)
        if fields is not None:
            return _mapping(fields.items(), len(fields), depth)
    except Exception:
        # Whatever the user's own container does when it is read.
        return f"({type(value).__name__}: could not be read)"
    return _named(value)


def _mapping(items: Any, count: int, depth: int) -> dict[str, Any]:
    found = {
        str(_plain(key, 0))[:MOST_ITEMS]: _plain(item, depth - 1)
        for key, item in islice(items, MOST_ITEMS)
    }
    left = count - MOST_ITEMS
    return found | ({"...": f"and {left} more"} if left > 0 else {})


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str):
        return str(value[:SEARCHED])
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"(a number of {value.bit_length()} bits)"
    return value


def _fields(value: Any) -> Mapping[str, Any] | None:
    """Return what a dataclass or a namespace holds; None for all other objects."""
    if isinstance(value, type):
        return None
    if hasattr(type(value), "__dataclass_fields__"):
        own = getattr(value, "__dict__", {})
        return {name: own[name] for name in type(value).__dataclass_fields__ if name in own}
    if isinstance(value, SimpleNamespace) or type(value).__name__ == "Namespace":
        fields: Mapping[str, Any] = vars(value)
        return fields
    return None


def _named(value: Any) -> Any:
    """Return what a value is, in a word or two."""
    if isinstance(value, PurePath):
        return str(value)[:SEARCHED]
    if isinstance(value, (type, FunctionType, MethodType)):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "device", "Size"):
        return str(value)
    if hasattr(kind, "dtype") and hasattr(kind, "shape"):
        return _array(value)
    if kind.__name__ == "partial" and callable(getattr(value, "func", None)):
        return f"partial({_named(value.func)})"
    if kind is range:
        return str(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _array(value: Any) -> Any:
    """Return the number of a NumPy scalar, and shape and dtype of what is larger or a tensor."""
    if type(value).__module__ == "numpy" and value.shape == () and hasattr(value, "item"):
        return _plain(value.item(), 0)
    return f"{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}"


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        long = len(value) > MOST_CHARACTERS
        return f"{value[:MOST_CHARACTERS]} ... (cut)" if long else value
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return [_cut(item) for item in value] if isinstance(value, list) else value


def flat(value: Any, path: str = "", depth: int = 3 * MOST_DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested plain data by dotted names."""
    nested = isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
    if depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}" if path else str(key), depth - 1)
    elif depth and nested:
        for index, item in enumerate(value):
            yield from flat(item, f"{path}.{index}", depth - 1)
    else:
        yield path, value
