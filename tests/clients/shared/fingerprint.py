"""What two runs must agree on, bit for bit, if one of them leaves no trace."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def fingerprint(*states: Any) -> str:
    """Return a digest of weights, metrics, and what the generators of random numbers would draw.

    Args:
        states: State dicts, metrics, arrays and numbers, in any nesting.
    """
    digest = hashlib.sha256()
    drawn = [random.random(), float(np.random.rand()), torch.rand(2)]
    for state in (*states, drawn):
        _add(digest, state)
    return digest.hexdigest()


def _add(digest: Any, state: Any) -> None:
    if isinstance(state, torch.Tensor):
        _add(digest, state.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(state, np.ndarray):
        digest.update(state.tobytes())
    elif isinstance(state, Mapping):
        for name in sorted(state, key=str):
            digest.update(str(name).encode())
            _add(digest, state[name])
    elif isinstance(state, list | tuple):
        for part in state:
            _add(digest, part)
    else:
        digest.update(repr(state).encode())
